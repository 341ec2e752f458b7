"""The search for the largest value that fits, against trying every value; and the tapes that tell it where to look."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.extrapolate.interpolation import TapesBySize
from inspector.extrapolate.sizes import Course
from inspector.planning.bisection import MOST_TRIALS, Bounds, largest
from tests.memory.tapes import Tape


def brute_force(border: int, most: int) -> int:
    """Return the largest of the values 1 to `most` that are at most `border`, by asking each; 0 where there is none."""
    return max((value for value in range(1, most + 1) if value <= border), default=0)


@given(border=st.integers(0, 300), start=st.integers(1, 300), most=st.integers(1, 300), hinted=st.integers(-5, 400))
def test_the_border_is_found_wherever_it_lies_and_whatever_the_hint(
    border: int, start: int, most: int, hinted: int
) -> None:
    """The largest that fits is the brute force's, and each value is tried once."""
    asked: list[int] = []

    def fits(value: int) -> bool:
        asked.append(value)
        return value <= border

    for hint in (lambda _low, _high: None, lambda _low, _high: hinted):
        asked.clear()
        bounds = largest(fits, start=start, most=most, hint=hint, most_trials=1_000)
        expected = brute_force(border, most)
        assert bounds == Bounds(fits=expected, fails=expected + 1, trials=len(asked))
        assert len(set(asked)) == len(asked)
        assert all(1 <= value <= most for value in asked)


@pytest.mark.parametrize(("border", "trials"), [(1, 2), (2, 4), (5, 6), (17, 10), (63, 12)])
def test_without_a_hint_trials_double_and_halve(border: int, trials: int) -> None:
    """17: 1, 2, 4, 8, 16, 32 and then 24, 20, 18, 17."""
    assert largest(lambda value: value <= border, start=1, most=2**24) == Bounds(
        fits=border, fails=border + 1, trials=trials
    )


def test_a_right_hint_takes_two_trials_more() -> None:
    """The start, the value itself, and the next one."""
    bounds = largest(lambda value: value <= 51_234, start=1_024, most=2**24, hint=lambda _low, _high: 51_234)
    assert bounds == Bounds(fits=51_234, fails=51_235, trials=3)


def test_a_search_that_is_cut_short_says_what_it_knows() -> None:
    """After 12 trials from 1 upwards: 2^11 fits, and nothing failed."""
    bounds = largest(lambda value: value <= 10**6, start=1, most=2**24)
    assert bounds == Bounds(fits=2**11, fails=2**24 + 1, trials=MOST_TRIALS)


def test_the_end_of_the_range_can_fit() -> None:
    """Then nothing fails within it."""
    assert largest(lambda _value: True, start=3, most=10) == Bounds(fits=10, fails=11, trials=3)  # 3, 6, 10


def sized(rows: int) -> Tape:
    """Return weights that stay as they are, activations of 40 bytes a row, and scores of 3 bytes a pair of rows."""
    return Tape().allocate(0, 1_000).allocate(1, 40 * rows + 8).allocate(2, 3 * rows * rows).free(1, 2)


def add(tapes: TapesBySize, value: int, tape: Tape) -> None:
    """Keep the sizes of a tape."""
    course = Course(tape.events, None)
    tapes.add(value, course, course.sizes)


def sizes(tapes: TapesBySize, value: int) -> list[int] | None:
    """Return the sizes of the foretold events."""
    foretold = tapes.at(value)
    return None if foretold is None else foretold[1].tolist()


def test_two_tapes_foretell_straight_lines_and_three_parabolas() -> None:
    """Through 2 and 4: 3 x 4 and 3 x 16 on a line of slope 18 give 12 + 6 x 18 = 120 at 8; with 6, it is 3 x 64."""
    tapes = TapesBySize()
    add(tapes, 2, sized(2))
    assert sizes(tapes, 8) is None
    add(tapes, 4, sized(4))
    assert sizes(tapes, 8) == [1_000, 328, 120, 0, 0]
    add(tapes, 6, sized(6))
    assert sizes(tapes, 8) == [1_000, 328, 192, 0, 0]
    assert sizes(tapes, 1_000) == [1_000, 40_008, 3_000_000, 0, 0]


def test_tapes_of_other_operations_are_left_out() -> None:
    """One row has no mask: its tape says nothing of two and more."""
    tapes = TapesBySize()
    add(tapes, 1, Tape().allocate(0, 1_000).allocate(1, 48))
    add(tapes, 2, sized(2))
    assert sizes(tapes, 3) is None
    add(tapes, 4, sized(4))
    assert sizes(tapes, 3) == [1_000, 128, 30, 0, 0]  # the line through 12 and 48
