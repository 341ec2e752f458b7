"""Steps that were measured, held against the traced step on any machine: 0 bytes, unless a cause is named.

A fixed sample of the rows runs everywhere, all of them with INSPECTOR_TRUTH=all, as CI does (sample.py).
"""

from __future__ import annotations

import pytest

from tests.evidence.truth.accuracy import PAGE, head, line
from tests.evidence.truth.comparison import KNOWN, compared
from tests.evidence.truth.rank_page import HEADING
from tests.evidence.truth.records import Measured, load
from tests.evidence.truth.sample import draw_sample, rows_of_this_run

UNSTEADY = {name for (name, _), known in KNOWN.items() if not known.is_steady}
WRITE = "run python -m tests.evidence.truth.accuracy"


def identity(row: Measured) -> str:
    """Return the id of a test."""
    return f"{row.group} {row.name}"


@pytest.mark.parametrize("row", rows_of_this_run(), ids=identity)
@pytest.mark.filterwarnings("ignore")
def test_a_measured_step_is_predicted_and_the_page_on_accuracy_has_its_line(row: Measured) -> None:
    figures = compared(row)
    assert figures
    assert [f"{figure.quantity}: {figure.difference:+,}" for figure in figures if not figure.holds] == []
    assert row.name in UNSTEADY or line(row) in PAGE.read_text(encoding="utf-8"), WRITE


def test_the_sample_has_every_row_on_a_gpu_and_rows_of_every_file() -> None:
    rows = load()
    sample = draw_sample(rows)
    assert {row.group for row in sample} == {row.group for row in rows}
    assert [row for row in rows if not row.is_stand_in] == [row for row in sample if not row.is_stand_in]
    assert sample == draw_sample(rows)
    assert len(sample) < len(rows)


def test_every_known_difference_belongs_to_a_truth_row_and_is_not_zero() -> None:
    assert {name for name, _ in KNOWN} <= {row.name for row in load()}
    assert all(known.differences != {0} for known in KNOWN.values())


def test_names_of_truth_rows_are_unique_in_their_group() -> None:
    names = [(row.group, row.name) for row in load()]
    assert len(names) == len(set(names))


def test_the_page_on_accuracy_begins_with_how_many_rows_there_are_and_which_run_predicts_them() -> None:
    assert PAGE.read_text(encoding="utf-8").startswith(head(load())), WRITE


def test_the_page_on_accuracy_has_every_row_in_order_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8").partition(HEADING)[0]
    lines = [found for found in text.splitlines() if found.startswith("| ")]
    named = [found.split(" | ")[0].removeprefix("| ") for found in lines]
    assert [name for name in named if name not in ("row", "---")] == [row.name for row in load()]


def test_stand_in_rows_stand_under_a_heading_that_says_so() -> None:
    on_gpus, heading, stand_in = PAGE.read_text(encoding="utf-8").partition("## Not measured on a GPU")
    assert heading
    assert "Stand-in GPU" not in on_gpus
    assert all(f"| {row.name} |" in (stand_in if row.is_stand_in else on_gpus) for row in load())
