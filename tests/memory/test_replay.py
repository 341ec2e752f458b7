"""Replays of a tape and of requests that come from elsewhere; the laws that hold for any tape are in test_timeline."""

from __future__ import annotations

import pytest

from inspector.memory.allocator.settings import MIB, AllocatorSettings
from inspector.memory.replay import CACHED_BLOCKS, Replays, list_requests
from inspector.memory.timeline import fold
from tests.memory.tapes import Tape


def cached() -> Tape:
    """Return 40 MiB that are freed, an emptied cache, no bytes at all, and 30 MiB."""
    return Tape().allocate(0, 40 * MIB).free(0).empty_cache().allocate(1, 0).allocate(2, 30 * MIB).free(1)


def test_a_replay_has_the_peaks_of_the_timeline() -> None:
    """40 MiB go back before 30 come; with expandable segments pages of 20 MiB come and go."""
    for settings in (None, AllocatorSettings.parse("expandable_segments:True")):
        replay = Replays.from_tape(cached().events, settings).unlimited
        timeline = fold(cached().events, settings)
        assert replay.peak_allocated_bytes == timeline.peak_allocated_bytes == 40 * MIB
        assert replay.peak_reserved_bytes == timeline.peak_reserved_bytes == 40 * MIB
        assert replay.failure is None


def test_a_replay_ends_where_memory_runs_out() -> None:
    """The first request wants 40 MiB of 39."""
    replay = Replays.from_tape(cached().events).under(39 * MIB)
    assert replay.failure is not None
    assert (replay.failure.requested_bytes, replay.peak_allocated_bytes) == (40 * MIB, 0)


@pytest.mark.parametrize("knows_unlimited", [False, True])
@pytest.mark.parametrize(
    ("limit", "left", "runs"), [(100, 0, True), (100, 1, False), (99, 39, True), (99, 40, False), (59, 0, False)]
)
def test_a_step_runs_where_it_leaves_what_is_to_stay_free(
    knows_unlimited: bool, limit: int, left: int, runs: bool
) -> None:
    """40 MiB that are cached and 60 that follow reserve 100 without a limit, and 60 where the 40 are given back."""
    tape = Tape().allocate(0, 40 * MIB).free(0).allocate(1, 60 * MIB)
    replays = Replays.from_tape(tape.events)
    if knows_unlimited:
        assert replays.unlimited.peak_reserved_bytes == 100 * MIB
    assert replays.run_under(limit * MIB, left * MIB) is runs


def test_a_zero_size_tensor_requests_nothing() -> None:
    """Neither does its end."""
    assert list(list_requests(cached().events)) == [(0, 40 * MIB), (0, 0), (CACHED_BLOCKS, 0), (2, 30 * MIB)]


@pytest.mark.parametrize("requests", [[(3, 0)], [(3, 512), (3, 0), (3, 0)]])
def test_requests_that_free_what_is_not_alive_are_an_error(requests: list[tuple[int, int]]) -> None:
    """A block that never was, and one that was freed before."""
    with pytest.raises(ValueError, match="block 3 is freed, and is not alive"):
        Replays(lambda: requests).under(None)


def test_a_device_without_memory_refuses_the_first_request_of_an_expandable_pool_too() -> None:
    replays = Replays.from_tape(Tape().allocate(0, 1).events, AllocatorSettings(expandable_segments=True))
    assert replays.under(0).failure is not None
