"""Which changes are found to make a step fit, against the power set of them."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from inspector.planning.fewest_changes import find_fitting_changes


class Step:
    """A step of 100 bytes, of which each change saves some; it cannot run with the changes in `refused`."""

    def __init__(self, savings: list[int], room: int, refused: tuple[int, ...] = ()) -> None:
        self.savings, self.room, self.refused = savings, room, refused
        self.tried: list[tuple[int, ...]] = []

    def __call__(self, chosen: tuple[int, ...]) -> tuple[bool, int] | None:
        """Return whether the step fits with these changes, and its total."""
        if set(chosen) & set(self.refused):
            return None
        if chosen not in self.tried:
            self.tried.append(chosen)
        total = 100 - sum(self.savings[change] for change in chosen)
        return total <= self.room, total

    def found(self) -> list[tuple[int, ...]]:
        """Return what is found."""
        return find_fitting_changes(len(self.savings), 100, self)


def test_the_least_harmful_sufficient_change_comes_first_and_then_other_sufficient_ones() -> None:
    """30 are missing: the second saves 30, the fourth 40; the first and the third do not."""
    step = Step([10, 30, 5, 40], room=70)
    assert step.found() == [(1,), (3,)]
    # All, the chain of 2, the chain of 1, the second alone, then the third and the fourth alone.
    assert step.tried == [(0, 1, 2, 3), (0, 1), (0,), (1,), (2,), (3,)]


def test_changes_are_combined_where_no_single_change_suffices() -> None:
    """35 are missing: 10 + 30 do, and without the useless change between them."""
    assert Step([10, 0, 30, 2], room=65).found() == [(0, 2)]
    assert Step([10, 0, 12, 1, 14], room=64).found() == [(0, 2, 4)]


def test_one_trial_shows_that_all_changes_together_do_not_fit() -> None:
    """Nothing else is tried."""
    step = Step([10, 20, 30], room=39)
    assert (step.found(), step.tried) == ([], [(0, 1, 2)])
    assert Step([], room=99).found() == []


def test_what_the_step_refuses_or_what_takes_more_is_left_out() -> None:
    """Flash attention in float32 is refused, and checkpointing can cost more than it saves."""
    assert Step([10, 50, 30], room=60, refused=(1,)).found() == [(0, 2)]
    assert Step([10, 50, -5, 30], room=60, refused=(1,)).found() == [(0, 3)]


@given(savings=st.lists(st.integers(0, 40), max_size=6), room=st.integers(0, 99))
def test_every_set_of_changes_that_is_found_fits_and_a_set_is_found_where_one_exists(
    savings: list[int], room: int
) -> None:
    """No change of a set can be left out, either."""
    step = Step(savings, room)
    subsets = itertools.chain.from_iterable(
        itertools.combinations(range(len(savings)), size) for size in range(1, len(savings) + 1)
    )
    fitting = {chosen for chosen in subsets if 100 - sum(savings[change] for change in chosen) <= room}
    found = step.found()
    assert set(found) <= fitting
    assert bool(found) == bool(fitting)
    for chosen in found[:1]:
        assert not [shorter for shorter in itertools.combinations(chosen, len(chosen) - 1) if shorter in fitting]
