"""The search for the largest value that fits, against trying every value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.planning.bisection import MOST_TRIALS, Bounds, bisect_largest


def brute_force(border: int, most: int) -> int:
    """Return the largest of the values 1 to `most` that are at most `border`, by asking each; 0 where there is none."""
    return max((value for value in range(1, most + 1) if value <= border), default=0)


@given(border=st.integers(0, 300), start=st.integers(1, 300), most=st.integers(1, 300), hinted=st.integers(-5, 400))
def test_a_search_finds_the_largest_fitting_value_with_any_hint(
    border: int, start: int, most: int, hinted: int
) -> None:
    """The largest that fits is the brute force's, and each value is tried once."""
    asked: list[int] = []

    def fits(value: int) -> bool:
        asked.append(value)
        return value <= border

    for hint in (lambda _low, _high: None, lambda _low, _high: hinted):
        asked.clear()
        bounds = bisect_largest(fits, start=start, most=most, hint=hint, most_trials=1_000)
        expected = brute_force(border, most)
        assert bounds == Bounds(fits=expected, fails=expected + 1, trials=len(asked))
        assert len(set(asked)) == len(asked)
        assert all(1 <= value <= most for value in asked)


@pytest.mark.parametrize(("border", "trials"), [(1, 2), (2, 4), (5, 6), (17, 10), (63, 12)])
def test_without_a_hint_trials_double_and_halve(border: int, trials: int) -> None:
    """17: 1, 2, 4, 8, 16, 32 and then 24, 20, 18, 17."""
    assert bisect_largest(lambda value: value <= border, start=1, most=2**24) == Bounds(
        fits=border, fails=border + 1, trials=trials
    )


def test_a_right_hint_takes_two_trials_more() -> None:
    """The start, the value itself, and the next one."""
    bounds = bisect_largest(lambda value: value <= 51_234, start=1_024, most=2**24, hint=lambda _low, _high: 51_234)
    assert bounds == Bounds(fits=51_234, fails=51_235, trials=3)


def test_a_search_that_is_cut_short_returns_the_largest_value_known_to_fit() -> None:
    """After 12 trials from 1 upwards: 2^11 fits, and nothing failed."""
    bounds = bisect_largest(lambda value: value <= 10**6, start=1, most=2**24)
    assert bounds == Bounds(fits=2**11, fails=2**24 + 1, trials=MOST_TRIALS)


def test_a_search_can_return_the_end_of_the_range() -> None:
    """Then nothing fails within it."""
    assert bisect_largest(lambda _value: True, start=3, most=10) == Bounds(fits=10, fails=11, trials=3)  # 3, 6, 10
