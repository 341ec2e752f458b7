"""Steps that were measured, held against the traced step on any machine: 0 bytes, unless a cause is named.

Rows on GPUs always run. Those of stand_in/ that take long to trace (whole models) run with INSPECTOR_TRUTH=all.
"""

from __future__ import annotations

import os

import pytest

from tests.evidence.truth.accuracy import PAGE, line
from tests.evidence.truth.comparison import KNOWN, compared
from tests.evidence.truth.records import Measured, load

IS_ALL = os.environ.get("INSPECTOR_TRUTH") == "all"
GPU_ROWS = [row for row in load() if not row.is_stand_in]
STAND_IN_ROWS = [row for row in load() if row.is_stand_in]
# Of the quantized rows, one of each kind.
QUICK = {"nf4", "nf4-checkpointing", "nf4-paged-8bit", "fp4", "int8", "nf4-gpt2", "stored-nf4", "stored-int8"}
QUICK |= {"nf4-float16", "lora-fp16"}  # on a T4, whose driver hands out descending addresses
FILTER = pytest.mark.filterwarnings("ignore")


def is_quick(row: Measured) -> bool:
    """Tell whether a row is traced in about half a second, and is not one of many of its kind: see QUICK."""
    return "layers" in row.record and (row.group == "a100" or (row.group in ("quantized", "t4") and row.name in QUICK))


def identity(row: Measured) -> str:
    """Return the id of a test."""
    return f"{row.group} {row.name}"


def assert_holds(row: Measured) -> None:
    """Hold every quantity of a row against its prediction."""
    differing = [f"{each.quantity}: {each.difference:+,}" for each in compared(row) if not each.holds]
    assert compared(row)
    assert differing == []


@pytest.mark.parametrize("row", GPU_ROWS, ids=identity)
@FILTER
def test_a_step_on_a_gpu_is_predicted(row: Measured) -> None:
    assert_holds(row)


@pytest.mark.parametrize("row", [row for row in STAND_IN_ROWS if IS_ALL or is_quick(row)], ids=identity)
@FILTER
def test_a_step_on_the_stand_in_is_predicted(row: Measured) -> None:
    assert_holds(row)


@FILTER
def test_the_l40s_rows_are_off_by_the_same_share() -> None:
    """The longest batch is the one thing that is not known of them; whatever it was, it was the same for all."""
    rows = [row for row in GPU_ROWS if row.group == "llama_3_2_3b_l40s"]
    shares = [100 * each.difference / each.measured for row in rows for each in compared(row)]
    assert len(shares) == 5
    assert max(shares) - min(shares) < 1


def test_every_known_difference_is_of_a_row_that_exists() -> None:
    assert {name for name, _ in KNOWN} <= {row.name for row in load()}


def test_names_of_rows_are_unique_in_their_group() -> None:
    names = [(row.group, row.name) for row in load()]
    assert len(names) == len(set(names))


UNSTEADY = {name for (name, _), known in KNOWN.items() if not known.is_steady}
STEADY = [row for row in load() if row.name not in UNSTEADY]


@pytest.mark.parametrize("row", [row for row in STEADY if IS_ALL or not row.is_stand_in or is_quick(row)], ids=identity)
@FILTER
def test_the_page_on_accuracy_has_the_line_of_a_row_as_it_is_now(row: Measured) -> None:
    assert line(row) in PAGE.read_text(encoding="utf-8"), "run python -m tests.evidence.truth.accuracy"


def test_the_page_on_accuracy_has_every_row_in_order_and_no_other() -> None:
    lines = [found for found in PAGE.read_text(encoding="utf-8").splitlines() if found.startswith("| ")]
    named = [found.split(" | ")[0].removeprefix("| ") for found in lines]
    assert [name for name in named if name not in ("row", "---")] == [row.name for row in load()]


def test_stand_in_rows_stand_under_a_heading_that_says_so() -> None:
    on_gpus, heading, stand_in = PAGE.read_text(encoding="utf-8").partition("## Not measured on a GPU")
    assert heading
    assert "Stand-in GPU" not in on_gpus
    assert all(f"| {row.name} |" in (stand_in if row.is_stand_in else on_gpus) for row in load())
