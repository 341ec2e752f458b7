"""A run -> the plot of its memory over time, for terminals and whatever else shows text.

Of each stretch of events the largest moment is drawn, so that no peak is lost however narrow the picture. Of a training
step it is the one with the peak, of a generation all steps. Categories are put together to layers that a terminal can
tell apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inspector.errors import one_line
from inspector.memory.held import WatchedAllocator
from inspector.memory.recording import Recording
from inspector.memory.replay import carry_out, list_requests
from inspector.records.memory import RunMemory
from inspector.records.report import Report
from inspector.records.tape import Category, Event, EventKind, Phase
from inspector.render.document import Plot, PlotColumn
from inspector.units import format_bytes, format_count

__all__ = ["LAYERS", "build_plot"]

# What is drawn alike, from the bottom up: what stays throughout, what a step leaves, what comes and goes.
_LAYERS: dict[str, tuple[Category, ...]] = {
    "weights": (Category.WEIGHTS, Category.BUFFERS),
    "adapter, gradients, optimizer": (Category.ADAPTER, Category.GRADIENTS, Category.OPTIMIZER),
    "KV cache": (Category.KV_CACHE,),
    "activations": (Category.ACTIVATIONS,),
    "logits and loss": (Category.LOGITS_AND_LOSS,),
    "temporaries and the rest": (Category.TEMPORARIES, Category.ATTENTION_MASK, Category.INPUTS, Category.OTHER),
}
LAYERS = tuple(_LAYERS)
_LAYER_OF = {category: index for index, group in enumerate(_LAYERS.values()) for category in group}
# More than the columns of most terminals.
_MOST_COLUMNS = 600
# Verdicts on more cards than this are on the common ones, which nobody named.
_MOST_NAMED_GPUS = 4


def build_plot(report: Report, recording: Recording) -> Plot:
    """Return the plot of a run; `recording` is that of the report."""
    memory = report.memory
    if memory is None:
        raise ValueError("the report is of no run")
    first, last = _find_span(recording.tape, None if memory.workload.generates else memory.peak.step)
    columns = _Columns(first, last, memory.peak.event_index)
    allocator = WatchedAllocator.of(recording)
    failure = carry_out(list_requests(columns.watch(recording.tape, allocator)), allocator)
    if failure is not None:
        raise ValueError(f"memory ran out: {failure}")
    what = memory.workload.label if memory.workload.generates else f"step {memory.peak.step}"
    return Plot(
        title=f"Memory over {what}: {format_count(last - first + 1)} allocations and frees",
        layers=LAYERS,
        columns=tuple(columns.list_columns()),
        phases=tuple((memory.workload.phases[phase], column) for phase, column in columns.phases),
        peak=columns.peak,
        peak_words=_describe_peak(memory),
        limit=_find_limit(report, memory),
    )


def _find_span(tape: Sequence[Event], step: int | None) -> tuple[int, int]:
    """Return the first and the last event of a step, of all steps for None; of the whole tape where there are none."""
    first, last = None, 0
    for index, event in enumerate(tape):
        if event.step == step if step is not None else event.step:
            first = index if first is None else first
            last = index
    return (0, len(tape) - 1) if first is None else (first, last)


def _describe_peak(memory: RunMemory) -> str:
    """Say how large the peak is and what is at work then."""
    peak = memory.peak
    place = ("" if not peak.step else f"step {peak.step}, ") + memory.workload.phases[peak.phase]
    parts = (f"peak {format_bytes(memory.peak_allocated_bytes)}: {place}", peak.module, peak.op)
    return one_line(", ".join(part for part in parts if part), 400)


def _find_limit(report: Report, memory: RunMemory) -> tuple[str, int] | None:
    """Return what the first card that was named can hand out; of the common ones, the smallest that fits."""
    known = [(one_line(item.gpu, 40), item.usable_bytes) for item in report.fit or () if item.usable_bytes]
    if len(known) <= _MOST_NAMED_GPUS:
        return known[0] if known else None
    return min(
        (card for card in known if card[1] >= memory.peak_reserved_bytes), key=lambda card: card[1], default=None
    )


class _Columns:
    """The columns of a plot, filled from between a tape and its requests."""

    def __init__(self, first: int, last: int, peak_index: int) -> None:
        self.peak = 0
        self.phases: list[tuple[Phase, int]] = []
        self._first, self._last, self._peak_index = first, last, peak_index
        self._count = min(_MOST_COLUMNS, last - first + 1)
        self._most = [-1] * self._count
        self._layers: list[tuple[int, ...]] = [()] * self._count
        self._reserved = [0] * self._count

    def watch(self, tape: Sequence[Event], allocator: WatchedAllocator) -> Iterator[Event]:
        """Yield the events; once the next one is asked for, note what the last one left."""
        held = [0] * len(LAYERS)
        blocks: dict[int, int] = {}
        before = 0
        for index, event in enumerate(tape):
            yield event
            now = allocator.allocated_bytes
            if event.kind is EventKind.ALLOCATE:
                blocks[event.block] = now - before
                held[_LAYER_OF[event.category]] += now - before
            elif event.kind is EventKind.FREE:
                held[_LAYER_OF[event.category]] -= blocks.pop(event.block)
            before = now
            if self._first <= index <= self._last:
                self._note(index, event.phase, now, held, allocator.reserved_bytes)

    def list_columns(self) -> Iterator[PlotColumn]:
        """Yield the columns."""
        for layers, reserved in zip(self._layers, self._reserved, strict=True):
            yield PlotColumn(layer_bytes=layers, reserved_bytes=reserved)

    def _note(self, index: int, phase: Phase, now: int, held: Sequence[int], reserved: int) -> None:
        """Note what an event of the span left in its column."""
        column = (index - self._first) * self._count // (self._last - self._first + 1)
        if not self.phases or self.phases[-1][0] is not phase:
            self.phases.append((phase, column))
        if index == self._peak_index:
            self.peak = column
        if now > self._most[column]:
            self._most[column], self._layers[column] = now, tuple(held)
        self._reserved[column] = max(self._reserved[column], reserved)
