"""A run as the one block of JSON that the page draws from: docs/reference/page-data.md describes its keys.

Everything that the page shows of a moment (what lives then, by category and by module) is made in the browser from the
events, so that each byte is in the file once. Names and pairs that many events share are listed once and pointed to by
their index; where events follow each other under the same module and operation, the pair stands there once with their
number. So an event takes some ten bytes, and 200,000 of them two or three megabytes.

Events that touch no memory (tensors without elements) are left out, and indices of the page do not count them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from inspector.errors import one_line
from inspector.memory.held import HeldMemory, HeldSegment, WatchedAllocator
from inspector.memory.recording import Recording
from inspector.memory.replay import carry_out, list_requests
from inspector.records.memory import RunMemory
from inspector.records.report import Report
from inspector.records.tape import Event, EventKind
from inspector.render.page.colors import CATEGORIES, COLORS

__all__ = ["SCHEMA", "build_page_data"]

SCHEMA = "inspector-page/1"
_PLACES = {category: place for place, category in enumerate(CATEGORIES)}
_MADE, _EMPTIED = 0, -1
_FREE = -1
_LONGEST_NAME = 300


def build_page_data(report: Report, recording: Recording) -> dict[str, Any]:
    """Return what the page draws of a run; `recording` is that of the report."""
    memory = report.memory
    if memory is None:
        raise ValueError("the report is of no run")
    allocator = WatchedAllocator.of(recording)
    events = _Events(allocator, memory)
    failure = carry_out(list_requests(events.watch(recording.tape)), allocator)
    if failure is not None:
        raise ValueError(f"memory ran out: {failure}")
    verdicts = [verdict for verdict in report.fit or () if verdict.usable_bytes]
    return {
        "schema": SCHEMA,
        "categories": [category.value.replace("_", " ") for category in CATEGORIES],
        "colors": list(COLORS.values()),
        "phases": {phase.value: title for phase, title in memory.workload.phases.items()},
        "limits": [{"gpu": one_line(verdict.gpu, 60), "bytes": verdict.usable_bytes} for verdict in verdicts],
        "peak": {"event": events.peak, "bytes": memory.peak_allocated_bytes},
        "peak_reserved_bytes": memory.peak_reserved_bytes,
        **events.describe(),
        "segments": [_describe_segment(segment) for segment in events.segments],
    }


class _Index:
    """Things that many events share: each listed once, and found by its place in the list."""

    def __init__(self) -> None:
        self._places: dict[Any, int] = {}

    def find(self, item: Any) -> int:
        """Return the place of an item, at the end where it is new."""
        return self._places.setdefault(item, len(self._places))

    def list_items(self) -> list[Any]:
        """Return the items by place."""
        return list(self._places)


class _Events:
    """The events of a run in the columns of the page, written down from between its tape and its requests."""

    def __init__(self, allocator: WatchedAllocator, memory: RunMemory) -> None:
        self.peak = 0
        self.segments: list[HeldSegment] = []
        self._allocator = allocator
        self._held = HeldMemory(allocator)
        self._peak_on_tape = memory.peak.event_index
        self._names, self._operations, self._pairs, self._kinds = _Index(), _Index(), _Index(), _Index()
        self._events: list[int] = []
        self._runs: list[int] = []  # a pair and how many events it holds for, one after the other
        self._block_kinds: list[int] = []
        self._stretches: list[list[Any]] = []
        self._reserved: list[int] = []  # an event and the bytes from it on, one after the other
        self._numbers: dict[int, int] = {}  # of each living block, by its name on the tape

    def watch(self, tape: Iterable[Event]) -> Iterator[Event]:
        """Yield the events; once the next one is asked for, write down what the last one did."""
        for index, event in enumerate(tape):
            yield event
            _, touched = self._held.follow(event)
            if touched is not None or event.kind is EventKind.EMPTY_CACHE:
                self._note_place(event)
                self._events.append(self._note_block(event, 0 if touched is None else touched.bytes))
            if index == self._peak_on_tape:
                self.peak = len(self._events) - 1
                self.segments = list(self._held.list_segments())

    def describe(self) -> dict[str, Any]:
        """Return the columns."""
        return {
            "names": [one_line(name, _LONGEST_NAME) for name in self._names.list_items()],
            "operations": [one_line(name, _LONGEST_NAME) for name in self._operations.list_items()],
            "pairs": self._pairs.list_items(),
            "runs": self._runs,
            "stretches": self._stretches,
            "kinds": self._kinds.list_items(),
            "events": self._events,
            "block_kinds": self._block_kinds,
            "reserved": self._reserved,
        }

    def _note_place(self, event: Event) -> None:
        """Note where an event is: its stretch, its module and operation, and what is reserved after it."""
        index = len(self._events)
        if not self._stretches or self._stretches[-1][:2] != [event.step, event.phase.value]:
            self._stretches.append([event.step, event.phase.value, index])
        pair = self._pairs.find((self._names.find(event.module), self._operations.find(event.op)))
        if self._runs and self._runs[-2] == pair:
            self._runs[-1] += 1
        else:
            self._runs += [pair, 1]
        reserved = self._allocator.reserved_bytes
        if not self._reserved or self._reserved[-1] != reserved:
            self._reserved += [index, reserved]

    def _note_block(self, event: Event, size: int) -> int:
        """Note the block that an event makes, and return what the event is in the page."""
        if event.kind is EventKind.EMPTY_CACHE:
            return _EMPTIED
        if event.kind is EventKind.FREE:
            return len(self._block_kinds) - self._numbers.pop(event.block)
        self._numbers[event.block] = len(self._block_kinds)
        self._block_kinds.append(self._kinds.find((size, _PLACES[event.category])))
        return _MADE


def _describe_segment(segment: HeldSegment) -> list[Any]:
    """Return a segment at the peak: whether it is of the small pool, then category and bytes of its stretches."""
    stretches: list[int] = []
    for block in segment.blocks:
        category = _FREE if block.made_by is None else _PLACES[block.made_by.category]
        if stretches and stretches[-2] == category:
            stretches[-1] += block.bytes  # blocks of one category beside each other are drawn as one
        else:
            stretches += [category, block.bytes]
    return [int(segment.is_small), *stretches]
