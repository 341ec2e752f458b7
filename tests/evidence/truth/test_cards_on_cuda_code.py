"""A model on two cards peaks, reserves and ends on each where the trace says, to the byte.

transformers' planner, accelerate's hooks, PEFT and Trainer are real, on torch's CUDA code over stand-ins for two cards
(tests/evidence/stand_in/README.md). Where a row differs it says by how much: a map that comes back to a card that it
left, of which the cause is not known.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import transformers

from inspector.hardware.platform import Platform
from tests.evidence.truth.card_rows import predict_cards

RECORD = json.loads((Path(__file__).parent / "stand_in" / "cards.json").read_text(encoding="utf-8"))
ROWS = RECORD["rows"]
CHOSEN = ROWS if os.environ.get("INSPECTOR_TRUTH") == "all" else ROWS[:1] + ROWS[3:4]
# What FAKE_TOTAL says of the memory of a card.
CARD_BYTES = 85_000_000_000


@pytest.mark.parametrize("row", CHOSEN, ids=lambda row: f"{row['model'].partition('/')[2]} {row['recipe']}")
@pytest.mark.skipif(
    transformers.__version__ != RECORD["transformers"], reason="recorded with another release of transformers"
)
@pytest.mark.filterwarnings("ignore")
def test_each_cards_second_update_takes_what_is_traced(row: dict[str, Any]) -> None:
    major, minor = RECORD["torch"].split(".")[:2]
    platform = Platform(
        compute_capability=tuple(RECORD["compute_capability"]),
        multiprocessors=RECORD["multiprocessors"],
        threads_per_multiprocessor=RECORD["threads_per_multiprocessor"],
        torch_version=(int(major), int(minor)),
    )
    known = row.get("differs", [{}, {}])
    expected = [
        {name: size + differing.get(name, 0) for name, size in figures.items()}
        for figures, differing in zip(row["measured"]["cards"], known, strict=True)
    ]
    assert predict_cards(row, platform, CARD_BYTES) == expected
