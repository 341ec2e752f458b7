"""What a replay shows to whoever watches it: bytes over time, peaks by phase, and what lives at the peak.

Every figure counts blocks as the allocator hands them out, rounding and unsplit slack included, so that categories and
modules add up to `torch.cuda.memory_allocated()` exactly. A stretch of events of one step and phase is treated as if
`torch.cuda.reset_peak_memory_stats()` were called before it: its peak starts from what is held at that moment. Where a
step has several stretches of a phase (gradient accumulation), the phase's peak is the largest and its end the last.
The peak is the first event at which `allocated` is largest.

A tape that frees what is not alive is a defect of the tracer: it raises ValueError with the event's index.
Where a limit is given and memory runs out, the timeline ends before the request that failed and says so.

Does not cover: deciding what a block is for. Its category is the one on the tape, and it belongs to the module that
was at work when it was allocated.
"""

from __future__ import annotations

import dataclasses
import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from inspector.memory.allocator.caching import CachingAllocator, OutOfMemory
from inspector.memory.allocator.settings import AllocatorSettings
from inspector.memory.block_map import BlockMap
from inspector.memory.replay import carry_out, list_requests
from inspector.records.hardware import Overhead
from inspector.records.memory import (
    BatchInput,
    CurvePoint,
    MemoryPhase,
    Peak,
    RowMedia,
    RunMemory,
    TopModule,
    Unaccounted,
    WithoutGradient,
)
from inspector.records.recipe import Recipe
from inspector.records.steps.ranks import Ranks
from inspector.records.tape import Category, Event, EventKind, Phase, WorkloadInfo

__all__ = [
    "MemoryRanOut",
    "Summary",
    "Timeline",
    "build_run_memory",
    "count_host_bytes",
    "count_kept_activations",
    "find_breakdown",
    "fold",
]

# Phases whose own peaks are told with where they are.
_WITH_A_PLACE = (Phase.PREFILL, Phase.DECODE)
# Categories of generation alone, and of runs on several cards.
_OF_SOME_RUNS = (Category.KV_CACHE, Category.GATHERED, Category.COMMUNICATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRanOut:
    """The event whose request failed under the given limit, and the allocator's account of it."""

    event_index: int
    event: Event
    failure: OutOfMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A tape as bytes over time. `allocated_bytes` and `reserved_bytes` hold the state after each event.

    `block_bytes` is what each block of the tape takes, by its index. `phases` are in order of their first event, each
    (step, phase) once. `step_end_allocated_bytes` is what is allocated after a step's last event. `peak` is None where
    nothing was allocated; `top_modules` adds up to it. `peak_reserved_bytes` may exceed every entry of
    `reserved_bytes`, because a request that is retried can reserve memory in between.
    """

    allocated_bytes: Sequence[int]
    reserved_bytes: Sequence[int]
    peak_reserved_bytes: int
    block_bytes: Mapping[int, int]
    phases: Sequence[MemoryPhase]
    step_end_allocated_bytes: Mapping[int, int]
    peak: Peak | None
    top_modules: Sequence[TopModule]
    ran_out: MemoryRanOut | None = None

    @property
    def peak_allocated_bytes(self) -> int:
        """Return the largest number of bytes allocated at a time."""
        return 0 if self.peak is None else self.peak.allocated_bytes

    def drop_events(self) -> Timeline:
        """Return it without what it holds of each event and block."""
        return dataclasses.replace(self, allocated_bytes=(), reserved_bytes=(), block_bytes={}, ran_out=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a report says of a run: its `timeline` without events, the bytes on the host, and what passes keep."""

    timeline: Timeline
    host_bytes: int | None
    kept_activations: int


# --- folds ------------------------------------------------------------------------------------------------------------


def fold(
    tape: Sequence[Event],
    settings: AllocatorSettings | None = None,
    *,
    limit_bytes: int | None = None,
    descending_addresses: bool = False,
) -> Timeline:
    """Run a tape through the allocator; raise ValueError with the event's index where the tape contradicts itself."""
    allocator = CachingAllocator(settings, limit_bytes=limit_bytes, descending_addresses=descending_addresses)
    seen = _Observations(allocator)
    failure = carry_out(list_requests(seen.watch(tape)), allocator)
    seen.phases.close()
    alive, end = _list_alive_after(tape, seen.peak_index), len(seen.allocated_bytes)
    return Timeline(
        allocated_bytes=seen.allocated_bytes,
        reserved_bytes=seen.reserved_bytes,
        peak_reserved_bytes=seen.phases.peak_reserved_bytes,
        block_bytes=seen.block_bytes,
        phases=seen.phases.records(tape),
        step_end_allocated_bytes=seen.step_ends,
        peak=_describe_peak(tape, seen.peak_index, alive, seen.block_bytes) if alive else None,
        top_modules=_rank_modules(alive, seen.block_bytes),
        ran_out=None if failure is None else MemoryRanOut(event_index=end, event=tape[end], failure=failure),
    )


def find_breakdown(tape: Sequence[Event], timeline: Timeline, event_index: int) -> dict[Category, int]:
    """Return the bytes of every category after an event of the timeline; they sum to what is allocated then."""
    if not 0 <= event_index < len(timeline.allocated_bytes):
        raise IndexError(f"the timeline has {len(timeline.allocated_bytes)} events, not one at index {event_index}")
    return _sum_by_category(_list_alive_after(tape, event_index), timeline.block_bytes)


def count_kept_activations(tape: Sequence[Event], timeline: Timeline) -> int:
    """Return the activations that live when the last forward pass ends, 0 where the tape has none."""
    last = max((index for index, event in enumerate(tape) if event.phase is Phase.FORWARD), default=None)
    return 0 if last is None else find_breakdown(tape, timeline, last)[Category.ACTIVATIONS]


def count_host_bytes(tape: Iterable[Event]) -> int | None:
    """Return the most that lies in host memory at a time, None where nothing ever does."""
    now = most = 0
    for event in tape:
        if event.kind is EventKind.HOST_ALLOCATE:
            now += event.bytes
            most = max(most, now)
        elif event.kind is EventKind.HOST_FREE:
            now -= event.bytes
    return most or None


def build_run_memory(
    timeline: Timeline,
    *,
    workload: WorkloadInfo,
    recipe: Recipe,
    platform: str,
    overhead: Overhead,
    not_accounted: Sequence[Unaccounted],
    defaults: Sequence[str] = (),
    limit_bytes: int | None = None,
    upper_bound: str | None = None,
    lower_bound: str | None = None,
    host_bytes: int | None = None,
    inputs: Sequence[BatchInput] | None = None,
    ranks: Ranks | None = None,
    media: RowMedia | None = None,
    without_gradient: Sequence[WithoutGradient] = (),
) -> RunMemory:
    """Return the part of a timeline that a report shows; ValueError when nothing was ever allocated."""
    if timeline.peak is None:
        raise ValueError("the tape allocates nothing")
    last = max(timeline.step_end_allocated_bytes)
    shown = (0, 1, last) if workload.generates else (0, last)
    return RunMemory(
        workload=workload,
        recipe=recipe,
        defaults=defaults,
        platform=platform,
        peak_allocated_bytes=timeline.peak_allocated_bytes,
        peak_reserved_bytes=timeline.peak_reserved_bytes,
        overhead_bytes=overhead.bytes,
        overhead_source=overhead.source,
        end_of_step_allocated_bytes=timeline.step_end_allocated_bytes[last],
        peak=timeline.peak,
        phases=[phase for phase in timeline.phases if phase.step in shown],
        top_modules=timeline.top_modules,
        not_accounted=not_accounted,
        limit_bytes=limit_bytes,
        upper_bound=upper_bound,
        lower_bound=lower_bound,
        host_bytes=host_bytes,
        inputs=inputs,
        ranks=ranks,
        media=media,
        without_gradient=without_gradient or None,
        curve=_draw_curve(timeline.phases) if workload.generates else None,
    )


def _draw_curve(phases: Sequence[MemoryPhase]) -> list[CurvePoint]:
    """Return the steps of a generation after which a power of two of tokens is there, and the last one."""
    steps = [phase for phase in phases if phase.step]
    return [
        CurvePoint(
            new_tokens=phase.step,
            peak_allocated_bytes=phase.peak_allocated_bytes,
            end_allocated_bytes=phase.end_allocated_bytes,
            reserved_bytes=phase.end_reserved_bytes,
        )
        for phase in steps
        if phase.step & (phase.step - 1) == 0 or phase is steps[-1]
    ]


class _Observations:
    """What is seen of a replay from between its tape and its requests."""

    def __init__(self, allocator: CachingAllocator) -> None:
        self._allocator = allocator
        self.phases = _Phases(allocator)
        self.allocated_bytes = array("q")
        self.reserved_bytes = array("q")
        self.block_bytes = BlockMap()
        self.step_ends: dict[int, int] = {}
        self.peak_index = -1

    def watch(self, tape: Iterable[Event]) -> Iterator[Event]:
        """Yield the events; once the next one is asked for, note what the last one did. A failed one does nothing."""
        allocator = self._allocator
        before = peak_bytes = 0
        for index, event in enumerate(tape):
            self.phases.enter(event.step, event.phase)
            yield event
            now = allocator.allocated_bytes
            if event.kind is EventKind.ALLOCATE:
                self.block_bytes[event.block] = now - before
            if now > self.phases.high_bytes:
                self.phases.high_bytes, self.phases.high_index = now, index
                if now > peak_bytes:
                    peak_bytes, self.peak_index = now, index
            self.allocated_bytes.append(now)
            self.reserved_bytes.append(allocator.reserved_bytes)
            self.step_ends[event.step] = before = now


@dataclass(slots=True)
class _PhaseState:
    """What is known of one (step, phase) so far."""

    peak_allocated: int = 0
    peak_reserved: int = 0
    end_allocated: int = 0
    end_reserved: int = 0
    peak_index: int | None = None


@dataclass(slots=True)
class _Phases:
    """Peaks and ends by (step, phase); the allocator's peaks start anew at every change.

    `high_bytes` is the most that was allocated after an event of the stretch at hand, `high_index` that event.
    """

    allocator: CachingAllocator
    peak_reserved_bytes: int = 0
    high_bytes: int = 0
    high_index: int | None = None
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
            state.peak_index = self.high_index
        state.peak_allocated = max(state.peak_allocated, allocator.max_allocated_bytes)
        state.peak_reserved = max(state.peak_reserved, allocator.max_reserved_bytes)
        state.end_allocated = allocator.allocated_bytes
        state.end_reserved = allocator.reserved_bytes
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, allocator.max_reserved_bytes)

    def records(self, tape: Sequence[Event]) -> list[MemoryPhase]:
        """Return one record for each (step, phase), in order of first appearance."""
        return [
            MemoryPhase(
                name=phase,
                step=step,
                end_allocated_bytes=state.end_allocated,
                peak_allocated_bytes=state.peak_allocated,
                end_reserved_bytes=state.end_reserved,
                peak_reserved_bytes=state.peak_reserved,
                module=None if place is None else place.module,
                op=None if place is None else place.op,
            )
            for (step, phase), state in self._states.items()
            for place in (self._find_place(tape, phase, state),)
        ]

    @staticmethod
    def _find_place(tape: Sequence[Event], phase: Phase, state: _PhaseState) -> Event | None:
        """Return the event at the peak of a phase of a generation."""
        return None if phase not in _WITH_A_PLACE or state.peak_index is None else tape[state.peak_index]


def _list_alive_after(tape: Sequence[Event], event_index: int) -> Sequence[Event]:
    """Return the allocations of the blocks that live after an event, in their order; -1 is before the first."""
    alive: dict[int, Event] = {}
    for event in itertools.islice(tape, event_index + 1):
        if event.kind is EventKind.ALLOCATE:
            alive[event.block] = event
        elif event.kind is EventKind.FREE:
            del alive[event.block]
    return list(alive.values())


def _sum_by_category(alive: Iterable[Event], sizes: Mapping[int, int]) -> dict[Category, int]:
    """Return the bytes of every category, those that hold nothing included."""
    result = dict.fromkeys(Category, 0)
    for event in alive:
        result[event.category] += sizes[event.block]
    for category in _OF_SOME_RUNS:
        if not result[category]:
            del result[category]
    return result


def _rank_modules(alive: Iterable[Event], sizes: Mapping[int, int]) -> list[TopModule]:
    """Return the modules whose blocks are alive, the largest first, equal ones by name."""
    totals: dict[str, int] = {}
    for event in alive:
        totals[event.module] = totals.get(event.module, 0) + sizes[event.block]
    ranked = sorted(((name, size) for name, size in totals.items() if size), key=lambda row: (-row[1], row[0]))
    return [TopModule(name=name, bytes=size) for name, size in ranked]


def _describe_peak(tape: Sequence[Event], index: int, alive: Iterable[Event], sizes: Mapping[int, int]) -> Peak:
    """Return the peak at an event with what lives then."""
    event = tape[index]
    return Peak(
        event_index=index,
        step=event.step,
        phase=event.phase,
        module=event.module,
        op=event.op,
        breakdown=_sum_by_category(alive, sizes),
    )
