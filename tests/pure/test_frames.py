"""Room for the frames of deep calls."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable

import pytest

from inspector.frames import with_room

_DEEPEST = 400
_CALLS = 500


def nothing() -> None:
    """Do nothing in a frame of its own."""


# A frame of half a kilobyte, so that one of the depths below leaves it no room, whatever lies above.
nothing.__code__ = nothing.__code__.replace(co_stacksize=64)


def calls_at(depth: int) -> None:
    """Call a function many times, so many calls deep."""
    if depth:
        calls_at(depth - 1)
    else:
        for _ in range(_CALLS):
            nothing()


def most_faults(run: Callable[[int], None]) -> int:
    """Return the largest number of page faults that calls took at any depth."""
    most = 0
    for depth in range(_DEEPEST):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        run(depth)
        most = max(most, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return most


@pytest.mark.skipif(
    sys.implementation.name != "cpython" or sys.version_info < (3, 11), reason="frames do not lie in pieces of memory"
)
def test_calls_across_the_border_of_a_piece_of_memory_map_it_each_time() -> None:
    """At one of 400 depths each of 500 calls faults; with room none does, but for what is touched first."""
    assert most_faults(calls_at) >= _CALLS
    assert most_faults(lambda depth: with_room(calls_at, depth)) < _CALLS / 5


def test_results_and_errors_pass_through() -> None:
    """With positional arguments and others."""
    assert with_room(divmod, 7, 2) == (3, 1)
    assert with_room(int, "11", base=2) == 3
    with pytest.raises(ZeroDivisionError):
        with_room(divmod, 1, 0)
