"""A model on two cards peaks, reserves and ends on each where the trace says, to the byte.

transformers' planner, accelerate's hooks, PEFT and Trainer are real, on torch's CUDA code over stand-ins for two cards
(tests/evidence/stand_in/README.md).
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import transformers

from tests.evidence.truth.card_rows import predict_cards
from tests.evidence.truth.rank_page import (
    CARD_BYTES,
    CARDS,
    HEADING,
    PAGE,
    PUBLISHED,
    RANKS,
    build_platform,
    name_row,
    predict_published,
    write_card_lines,
    write_published_line,
)

ROWS = CARDS["rows"]
CHOSEN = ROWS if os.environ.get("INSPECTOR_TRUTH") == "all" else (ROWS[3], ROWS[5])


@pytest.mark.parametrize("row", CHOSEN, ids=lambda row: f"{row['model'].partition('/')[2]} {row['recipe']}")
@pytest.mark.skipif(
    transformers.__version__ != CARDS["transformers"], reason="recorded with another release of transformers"
)
@pytest.mark.filterwarnings("ignore")
def test_each_cards_second_update_takes_what_is_traced(row: dict[str, Any]) -> None:
    predicted = predict_cards(row, build_platform(CARDS), CARD_BYTES)
    assert predicted == row["measured"]["cards"]
    page = PAGE.read_text(encoding="utf-8")
    assert all(line in page for line in write_card_lines(row, predicted))


@pytest.mark.skipif(os.environ.get("INSPECTOR_TRUTH") != "all", reason="whole models, as other rows of all")
@pytest.mark.parametrize("row", PUBLISHED["rows"], ids=lambda row: f"{row['figure']} {row['seq_len']}")
@pytest.mark.filterwarnings("ignore")
def test_what_a_published_figure_is_predicted_to_be_stands_in_its_row(row: dict[str, Any]) -> None:
    assert round(predict_published(row), 2) == row["predicted_gib"]


def test_the_page_has_every_row_of_ranks_and_of_cards_and_every_published_figure() -> None:
    section = PAGE.read_text(encoding="utf-8").partition(HEADING)[2]
    named = [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line.startswith("| ")]
    cards = [f"{name_row(row)}, card {card}" for row in CARDS["rows"] for card in (0, 1)]
    published = [str(row["run"]) for row in PUBLISHED["rows"]]
    expected = ["run", "---", *map(name_row, RANKS["rows"]), *cards, "run", "---", *published]
    assert named == expected
    assert all(write_published_line(row) in section for row in PUBLISHED["rows"])
