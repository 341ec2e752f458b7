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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from inspector.memory.allocator.caching import CachingAllocator, OutOfMemory
from inspector.memory.allocator.settings import AllocatorSettings
from inspector.memory.observations import Observations
from inspector.records.columns import CATEGORIES, KINDS, PHASES, Columns, split_tape
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

_ALLOCATE, _FREE, _HOST_ALLOCATE, _HOST_FREE = (
    KINDS.index(kind) for kind in (EventKind.ALLOCATE, EventKind.FREE, EventKind.HOST_ALLOCATE, EventKind.HOST_FREE)
)
_FORWARD = PHASES.index(Phase.FORWARD)
# From here on blocks are to take little room, and more time.
_LONG = 1_000_000
# A block with its category and its module.
_Made: TypeAlias = tuple[int, Category, str]
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
    """What a report says of a run: its `timeline` without events, the bytes on the host, and what passes keep.

    `late` are the peaks of allocated and reserved bytes where blocks whose end depends on time end at the latest, None
    where none does.
    """

    timeline: Timeline
    host_bytes: int | None
    kept_activations: int
    late: tuple[int, int] | None = None


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
    seen = Observations(allocator, is_long=not isinstance(tape, (Columns, list)) or len(tape) > _LONG)
    failure = next(filter(None, map(seen.add, split_tape(tape))), None)
    seen.phases.close()
    alive, end = _list_alive_after(tape, seen.peak_index), len(seen.allocated_bytes)
    return Timeline(
        allocated_bytes=seen.allocated_bytes,
        reserved_bytes=seen.reserved_bytes,
        peak_reserved_bytes=seen.phases.peak_reserved_bytes,
        block_bytes=seen.block_bytes,
        phases=seen.phases.records(),
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
    start, end = 0, None
    for piece in split_tape(tape):
        last = piece.phase.tobytes().rfind(_FORWARD)
        end = end if last < 0 else start + last
        start += len(piece)
    return 0 if end is None else find_breakdown(tape, timeline, end)[Category.ACTIVATIONS]


def count_host_bytes(tape: Iterable[Event]) -> int | None:
    """Return the most that lies in host memory at a time, None where nothing ever does."""
    now = most = 0
    for piece in split_tape(tape):
        if _HOST_ALLOCATE not in piece.kind and _HOST_FREE not in piece.kind:
            continue
        for kind, size in zip(piece.kind, piece.bytes, strict=True):
            if kind == _HOST_ALLOCATE:
                now += size
                most = max(most, now)
            elif kind == _HOST_FREE:
                now -= size
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


def _list_alive_after(tape: Sequence[Event], event_index: int) -> Sequence[_Made]:
    """Return the allocations of the blocks that live after an event, in their order; -1 is before the first."""
    alive: dict[int, tuple[Columns, int]] = {}
    left = event_index + 1
    for piece in split_tape(tape):
        for index, (kind, block) in enumerate(zip(piece.kind[:left], piece.block[:left], strict=True)):
            if kind == _ALLOCATE:
                alive[block] = piece, index
            elif kind == _FREE:
                del alive[block]
        left -= len(piece)
        if left <= 0:
            break
    return [
        (block, CATEGORIES[piece.category[index]], piece.modules[piece.module[index]])
        for block, (piece, index) in alive.items()
    ]


def _sum_by_category(alive: Iterable[_Made], sizes: Mapping[int, int]) -> dict[Category, int]:
    """Return the bytes of every category, those that hold nothing included."""
    result = dict.fromkeys(Category, 0)
    for block, category, _ in alive:
        result[category] += sizes[block]
    for category in _OF_SOME_RUNS:
        if not result[category]:
            del result[category]
    return result


def _rank_modules(alive: Iterable[_Made], sizes: Mapping[int, int]) -> list[TopModule]:
    """Return the modules whose blocks are alive, the largest first, equal ones by name."""
    totals: dict[str, int] = {}
    for block, _, module in alive:
        totals[module] = totals.get(module, 0) + sizes[block]
    ranked = sorted(((name, size) for name, size in totals.items() if size), key=lambda row: (-row[1], row[0]))
    return [TopModule(name=name, bytes=size) for name, size in ranked]


def _describe_peak(tape: Sequence[Event], index: int, alive: Iterable[_Made], sizes: Mapping[int, int]) -> Peak:
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
