"""The length that was not published of the runs on an L40S: what the fit says, and that it is predicted so today."""

from __future__ import annotations

import pytest

from tests.evidence.truth.comparison import KNOWN
from tests.evidence.truth.l40s_lengths import FITTED, PREDICTED, ROWS, differences_in_percent, predict_reserved
from tests.evidence.truth.sample import IS_ALL

ADAPTERS = [number for number, row in enumerate(ROWS) if "adapter" in row.record]
MIB = 2**20


def worst(length: int, rows: list[int]) -> float:
    """Return the largest difference of some rows at a length, in per cent."""
    off = differences_in_percent(PREDICTED[length])
    return max(abs(off[number]) for number in rows)


def test_the_record_holds_the_fitted_length() -> None:
    assert len(ROWS) == 5
    assert len(ADAPTERS) == 4
    assert {row.recipe.seq_len for row in ROWS} == {FITTED}


def test_the_known_differences_are_those_of_the_fitted_length() -> None:
    measured = [row.record["measured"]["peak_reserved_bytes"] for row in ROWS]
    differences = [ours - theirs for ours, theirs in zip(PREDICTED[FITTED], measured, strict=True)]
    assert [KNOWN[row.name, "peak reserved"].differences for row in ROWS] == [{off} for off in differences]


def test_the_fitted_length_leaves_the_smallest_of_the_worst_differences() -> None:
    for rows in (ADAPTERS, list(range(5))):
        assert min(PREDICTED, key=lambda length: worst(length, rows)) == FITTED
    assert round(worst(FITTED, ADAPTERS), 2) == 0.20
    assert round(worst(FITTED, list(range(5))), 2) == 0.56


def test_lengths_beyond_either_step_of_the_staircase_do_not_agree_with_the_adapters() -> None:
    # A block of 10 MiB and more is rounded up to 2 MiB: MLP activations and hidden states of 4 rows in bfloat16.
    assert 21 * 2 * MIB == 4 * 672 * 8_192 * 2
    assert 4 * 682 * 3_072 * 2 < 8 * 2 * MIB < 4 * 683 * 3_072 * 2
    assert round(worst(673, ADAPTERS), 2) == 0.50
    assert round(worst(672, ADAPTERS), 2) == 1.67
    assert round(worst(683, ADAPTERS), 2) == 1.68


@pytest.mark.skipif(not IS_ALL, reason="15 traces: INSPECTOR_TRUTH=all runs them")
# At the fitted length the rows themselves are predicted, and `KNOWN` holds their differences to the byte.
@pytest.mark.parametrize("length", sorted(set(PREDICTED) - {FITTED})[::5])
@pytest.mark.filterwarnings("ignore")
def test_what_is_predicted_at_a_length_is_what_the_fit_was_made_of(length: int) -> None:
    assert tuple(predict_reserved(row, length) for row in ROWS) == PREDICTED[length]
