"""A run as the one block of JSON that the page draws from: docs/reference/page-data.md describes its keys.

Everything that the page shows of a moment (what lives then, by category and by module) is made in the browser from the
events, so that each byte is in the file once. Names and pairs that many events share are listed once and pointed to by
their index; where events follow each other under the same module and operation, the pair stands there once with their
number. So an event takes some ten bytes, and 200,000 of them two or three megabytes.

Events that touch no memory (tensors without elements) are left out, and indices of the page do not count them. Of a
very long run others are, too (`thinning`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from inspector.errors import one_line
from inspector.memory.held import HeldMemory, HeldSegment, WatchedAllocator
from inspector.memory.recording import Recording
from inspector.memory.replay import carry_out, list_requests
from inspector.records.memory import RunMemory
from inspector.records.report import Report
from inspector.records.tape import Event, EventKind, Phase
from inspector.render.page.colors import CATEGORIES, COLORS
from inspector.render.page.thinning import Noted, Thinner

__all__ = ["MOST_EVENTS", "SCHEMA", "build_page_data"]

SCHEMA = "inspector-page/1"
# Some three megabytes.
MOST_EVENTS = 200_000
_PLACES = {category: place for place, category in enumerate(CATEGORIES)}
_MADE, _EMPTIED = 0, -1
_FREE = -1
_LONGEST_NAME = 300


def build_page_data(report: Report, recording: Recording, most_events: int = MOST_EVENTS) -> dict[str, Any]:
    """Return what the page draws of a run, with about so many events at most; `recording` is that of the report."""
    memory = report.memory
    if memory is None:
        raise ValueError("the report is of no run")
    allocator = WatchedAllocator.of(recording)
    events = _Events(allocator, memory, most_events)
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
        "peak_reserved_bytes": memory.peak_reserved_bytes,
        **events.describe(memory.peak_allocated_bytes),
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

    def __init__(self, allocator: WatchedAllocator, memory: RunMemory, most_events: int) -> None:
        self.segments: list[HeldSegment] = []
        self._allocator = allocator
        self._held = HeldMemory(allocator)
        self._peak_on_tape = memory.peak.event_index
        self._places, self._kinds, self._stretches = _Index(), _Index(), _Index()
        self._most_events = most_events
        self._noted: Sequence[Noted] = ()
        self._count = 0

    def watch(self, tape: Sequence[Event]) -> Iterator[Event]:
        """Yield the events; once the next one is asked for, write down what the last one did."""
        noted: list[Noted] = []
        # Of a run that is short enough nothing is left out.
        thinner = Thinner(self._most_events) if len(tape) > self._most_events else None
        add = noted.append if thinner is None else thinner.add
        follow, peak, is_free, is_emptying = (
            self._held.follow,
            self._peak_on_tape,
            EventKind.FREE,
            EventKind.EMPTY_CACHE,
        )
        find_place, find_kind, find_stretch = self._places.find, self._kinds.find, self._stretches.find
        for index, event in enumerate(tape):
            yield event
            _, touched = follow(event)
            kind = event.kind
            if touched is not None or kind is is_emptying:
                size = 0 if touched is None else touched.bytes
                add(
                    Noted(
                        event.block,
                        -size if kind is is_free else size,
                        -1 if kind is is_free else find_kind((size, _PLACES[event.category])),
                        find_place((event.module, event.op)),
                        find_stretch((event.step, event.phase)),
                        self._allocator.reserved_bytes,
                        index == peak,
                    )
                )
            if index == peak:
                self.segments = list(self._held.list_segments())
        self._noted = noted if thinner is None else thinner.list_events()
        self._count = len(noted) if thinner is None else thinner.count

    def describe(self, peak_bytes: int) -> dict[str, Any]:
        """Return the columns, and where the peak of so many bytes is in them."""
        columns = _Columns(self._stretches.list_items())
        columns.fill(self._noted)
        names, operations = _Index(), _Index()
        pairs = [(names.find(module), operations.find(op)) for module, op in self._places.list_items()]
        return {
            "peak": {"event": columns.peak, "bytes": peak_bytes},
            "names": [one_line(name, _LONGEST_NAME) for name in names.list_items()],
            "operations": [one_line(name, _LONGEST_NAME) for name in operations.list_items()],
            "pairs": pairs,
            "kinds": self._kinds.list_items(),
            "events_of_the_run": self._count,
            "runs": columns.runs,
            "stretches": columns.stretches,
            "events": columns.events,
            "block_kinds": columns.block_kinds,
            "reserved": columns.reserved,
        }


class _Columns:
    """The events that are kept, in columns."""

    def __init__(self, stretches: Sequence[tuple[int, Phase]]) -> None:
        self.peak = 0
        self.events: list[int] = []
        self.runs: list[int] = []  # a pair and how many events it holds for, one after the other
        self.block_kinds: list[int] = []
        self.stretches: list[list[Any]] = []
        self.reserved: list[int] = []  # an event and the bytes from it on, one after the other
        self._names_of_stretches = stretches

    def fill(self, noted: Sequence[Noted]) -> None:
        """Write down events."""
        numbers: dict[int, int] = {}  # of each living block, by its name on the tape
        last_pair = last_stretch = last_reserved = -1
        runs, block_kinds = self.runs, self.block_kinds
        for index, (block, change, kind, pair, stretch, reserved, is_peak) in enumerate(noted):
            if is_peak:
                self.peak = index
            if stretch != last_stretch:
                last_stretch = stretch
                step, phase = self._names_of_stretches[stretch]
                self.stretches.append([step, phase.value, index])
            if pair == last_pair:
                runs[-1] += 1
            else:
                last_pair = pair
                runs += (pair, 1)
            if reserved != last_reserved:
                last_reserved = reserved
                self.reserved += (index, reserved)
            if change > 0:
                numbers[block] = len(block_kinds)
                block_kinds.append(kind)
                self.events.append(_MADE)
            else:
                self.events.append(len(block_kinds) - numbers.pop(block) if change else _EMPTIED)


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
