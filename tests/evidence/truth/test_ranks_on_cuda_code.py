"""A rank of a real Trainer on torch's CUDA code peaks, reserves and ends where the trace says, to the byte.

FSDP2, DDP, accelerate's Accelerator, Trainer and ProcessGroupNCCL are real; the CUDA runtime and NCCL are stand-ins
(tests/evidence/stand_in/README.md), and no other rank is there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import transformers

from inspector.hardware.platform import Platform
from tests.evidence.truth.rank_rows import predict_rank

RECORD = json.loads((Path(__file__).parent / "stand_in" / "ranks.json").read_text(encoding="utf-8"))
ROWS = RECORD["rows"]
CHOSEN = ROWS if os.environ.get("INSPECTOR_TRUTH") == "all" else ROWS[2:13:4]


def name(row: dict[str, Any]) -> str:
    """Name a row by its model, its launch and what is special in its recipe."""
    options = {key: value for key, value in row["recipe"].items() if key != "seq_len"}
    launch = [str(item) for item in row["launch"].values() if not isinstance(item, dict)]
    kind = "lora" if "lora" in row else "full"
    return " ".join([row["model"].partition("/")[2], kind, *launch, *map(str, options.values())])


@pytest.mark.parametrize("row", CHOSEN, ids=name)
@pytest.mark.skipif(
    transformers.__version__ != RECORD["transformers"], reason="recorded with another release of transformers"
)
@pytest.mark.filterwarnings("ignore")
def test_a_ranks_second_update_takes_what_is_traced(row: dict[str, Any]) -> None:
    major, minor = RECORD["torch"].split(".")[:2]
    platform = Platform(
        compute_capability=tuple(RECORD["compute_capability"]),
        multiprocessors=RECORD["multiprocessors"],
        threads_per_multiprocessor=RECORD["threads_per_multiprocessor"],
        torch_version=(int(major), int(minor)),
    )
    assert predict_rank(row, platform) == row["measured"]
