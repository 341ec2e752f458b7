"""A replay that is watched: what is allocated and reserved after each event, and each phase's peaks and ends.

This is the loop of `memory.replay` over the columns of a tape instead of its requests, with everything that a timeline
is made of noted on the way. A tape that frees what is not alive is a defect of the tracer, and an error.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from inspector.memory.allocator.caching import Block, CachingAllocator, OutOfMemory
from inspector.memory.block_map import BlockMap
from inspector.records.columns import KINDS, PHASES, Columns
from inspector.records.memory import MemoryPhase
from inspector.records.tape import EventKind, Phase

__all__ = ["Observations"]

# Phases whose own peaks are told with where they are.
_WITH_A_PLACE = (Phase.PREFILL, Phase.DECODE)
_ALLOCATE, _FREE, _EMPTY = (KINDS.index(kind) for kind in (EventKind.ALLOCATE, EventKind.FREE, EventKind.EMPTY_CACHE))


class Observations:
    """What is seen of a replay, piece by piece of its tape; where `is_long`, blocks take little room and more time.

    `block_bytes` is what each block takes, `peak_index` the first event at which most is allocated, -1 where nothing
    ever is.
    """

    def __init__(self, allocator: CachingAllocator, *, is_long: bool) -> None:
        self._allocator = allocator
        self._live: dict[int, Block | None] = {}  # None for what takes no memory
        self._stream = 0
        self._fresh = 0  # blocks from this number on were not seen
        self._peak_bytes = 0
        self.phases = _Phases(allocator)
        self.allocated_bytes = array("q")
        self.reserved_bytes = array("q")
        self.block_bytes: dict[int, int] | BlockMap = BlockMap() if is_long else {}
        self.step_ends: dict[int, int] = {}
        self.peak_index = -1

    def list_alive(self) -> Iterator[tuple[int, Block]]:
        """Yield the blocks that live now and take memory, by their names on the tape."""
        yield from ((name, block) for name, block in self._live.items() if block is not None)

    def add(self, piece: Columns) -> OutOfMemory | None:
        """Carry out the next piece of a tape and return the failure that ended it, None where all was carried out."""
        for first, last in _list_stretches(piece):
            step, phase = piece.step[first], PHASES[piece.phase[first]]
            self.phases.enter(step, phase)
            before = len(self.allocated_bytes)
            failure = self._carry_out(piece, first, last)
            if len(self.allocated_bytes) > before:
                self.step_ends[step] = self._allocator.allocated_bytes
            if failure is not None:
                return failure
        return None

    def _carry_out(self, piece: Columns, first: int, last: int) -> OutOfMemory | None:
        """Carry out events of one step and phase, and note after each what it did. A failed one does nothing."""
        allocator, live, taken, phases = self._allocator, self._live, self.block_bytes, self.phases
        allocate, free, note_taken = allocator.allocate, allocator.free, taken.__setitem__
        note_allocated, note_reserved = self.allocated_bytes.append, self.reserved_bytes.append
        now, high, reserved = allocator.allocated_bytes, phases.high_bytes, allocator.reserved_bytes
        index = before = len(self.allocated_bytes)
        high_index, fresh = phases.high_index, self._fresh
        failure: OutOfMemory | None = None
        columns = (column[first:last] for column in (piece.kind, piece.block, piece.bytes, piece.stream))
        for kind, block, size, stream in zip(*columns, strict=True):
            if kind == _ALLOCATE:
                if block >= fresh:
                    fresh = block + 1
                elif block in taken:
                    raise ValueError(f"event {index}: block {block} is allocated a second time")
                if size > 0:
                    if stream != self._stream:
                        self._stream = stream
                        allocator.use_stream(stream)
                    made = allocate(size)
                    if isinstance(made, OutOfMemory):
                        failure = made
                        break
                    live[block] = made
                    note_taken(block, made.size)
                    now += made.size
                    reserved = allocator.reserved_bytes
                    if now > high:
                        high, high_index = now, index
                elif size < 0:
                    raise ValueError(f"event {index}: block {block} of {size} bytes")
                else:
                    live[block] = None
                    note_taken(block, 0)
            elif kind == _FREE:
                if block not in live:
                    state = "was freed before" if block in taken else "was never allocated"
                    raise ValueError(f"event {index}: free of block {block}, which {state}")
                freed = live.pop(block)
                if freed is not None:
                    now -= freed.size
                    free(freed)
            elif kind == _EMPTY:
                allocator.empty_cache()
                reserved = allocator.reserved_bytes
            note_allocated(now)
            note_reserved(reserved)
            index += 1
        self._fresh = fresh
        if high_index != phases.high_index and high_index is not None:
            place = first + high_index - before
            phases.high_bytes, phases.high_index = high, high_index
            phases.high_place = piece.modules[piece.module[place]], piece.ops[piece.op[place]]
        if high_index is not None and high > self._peak_bytes:
            self._peak_bytes, self.peak_index = high, high_index
        return failure


def _list_stretches(piece: Columns) -> Iterator[tuple[int, int]]:
    """Yield where the events of one step and phase begin and end."""
    start = 0
    for _, events in itertools.groupby(zip(piece.step, piece.phase, strict=True)):
        end = start + sum(1 for _ in events)
        yield start, end
        start = end


@dataclass(slots=True)
class _PhaseState:
    """What is known of one (step, phase) so far."""

    peak_allocated: int = 0
    peak_reserved: int = 0
    end_allocated: int = 0
    end_reserved: int = 0
    place: tuple[str, str] | None = None


@dataclass(slots=True)
class _Phases:
    """Peaks and ends by (step, phase); the allocator's peaks start anew at every change.

    `high_bytes` is the most that was allocated after an event of the stretch at hand, `high_index` that event and
    `high_place` the module and the operation at work then.
    """

    allocator: CachingAllocator
    peak_reserved_bytes: int = 0
    high_bytes: int = 0
    high_index: int | None = None
    high_place: tuple[str, str] | None = None
    _states: dict[tuple[int, Phase], _PhaseState] = field(default_factory=dict)
    _current: tuple[int, Phase] | None = None

    def enter(self, step: int, phase: Phase) -> None:
        """Note which step and phase the next event belongs to."""
        if self._current is not None and self._current[0] == step and self._current[1] is phase:
            return
        self.close()
        self._current = (step, phase)
        self.allocator.reset_peaks()
        self.high_bytes, self.high_index = self.allocator.allocated_bytes, None

    def close(self) -> None:
        """Settle the stretch of events that ends here."""
        if self._current is None:
            return
        allocator = self.allocator
        state = self._states.setdefault(self._current, _PhaseState())
        if self.high_index is not None and self.high_bytes > state.peak_allocated:
            state.place = self.high_place
        state.peak_allocated = max(state.peak_allocated, allocator.max_allocated_bytes)
        state.peak_reserved = max(state.peak_reserved, allocator.max_reserved_bytes)
        state.end_allocated = allocator.allocated_bytes
        state.end_reserved = allocator.reserved_bytes
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, allocator.max_reserved_bytes)

    def records(self) -> list[MemoryPhase]:
        """Return one record for each (step, phase), in order of first appearance."""
        return [
            MemoryPhase(
                name=phase,
                step=step,
                end_allocated_bytes=state.end_allocated,
                peak_allocated_bytes=state.peak_allocated,
                end_reserved_bytes=state.end_reserved,
                peak_reserved_bytes=state.peak_reserved,
                module=place[0],
                op=place[1],
            )
            for (step, phase), state in self._states.items()
            for place in (state.place if phase in _WITH_A_PLACE and state.place else (None, None),)
        ]
