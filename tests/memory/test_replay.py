"""Replays for one answer, against the timeline that tells everything."""

from __future__ import annotations

from inspector.memory.allocator.settings import MIB, AllocatorSettings
from inspector.memory.replay import Replays
from inspector.memory.timeline import fold
from inspector.records.tape import Event, EventKind, Phase
from tests.memory.tapes import Tape


def cached() -> Tape:
    """Return 40 MiB that are freed, an emptied cache, no bytes at all, and 30 MiB."""
    tape = Tape().allocate(0, 40 * MIB).free(0)
    tape.events.append(Event(kind=EventKind.EMPTY_CACHE, block=-1, phase=Phase.LOAD))
    return tape.allocate(1, 0).allocate(2, 30 * MIB).free(1)


def test_a_replay_has_the_peaks_of_the_timeline() -> None:
    """40 MiB go back before 30 come; with expandable segments pages of 20 MiB come and go."""
    for settings in (None, AllocatorSettings.parse("expandable_segments:True")):
        replay = Replays.of(cached().events, settings).unlimited
        timeline = fold(cached().events, settings)
        assert replay.peak_allocated_bytes == timeline.peak_allocated_bytes == 40 * MIB
        assert replay.peak_reserved_bytes == timeline.peak_reserved_bytes == 40 * MIB
        assert replay.failure is None


def test_a_replay_ends_where_memory_runs_out() -> None:
    """The first request wants 40 MiB of 39."""
    replay = Replays.of(cached().events).under(39 * MIB)
    assert replay.failure is not None
    assert (replay.failure.requested_bytes, replay.peak_allocated_bytes) == (40 * MIB, 0)


def test_a_retag_asks_for_nothing() -> None:
    """The block lives on."""
    tape = Tape().allocate(0, 2 * MIB)
    tape.events.append(Event(kind=EventKind.RETAG, block=0, phase=Phase.LOAD))
    assert Replays.of(tape.allocate(1, 2 * MIB).events).unlimited.peak_allocated_bytes == 4 * MIB
