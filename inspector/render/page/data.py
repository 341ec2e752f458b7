"""A run as the one block of JSON that the page draws from: docs/reference/page-data.md describes its keys.

Everything that the page shows of a moment (what lives then, by category and by module) is made in the browser from the
events, so that each byte is in the file once. Names and pairs that many events share are listed once and pointed to by
their index; where events follow each other under the same module and operation, the pair stands there once with their
number. So an event takes some ten bytes, and 200,000 of them two or three megabytes.

Events that touch no memory (tensors without elements) are left out, and indices of the page do not count them. Of a
very long run others are, too (`thinning`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from inspector.errors import one_line
from inspector.memory.allocator.caching import CachingAllocator
from inspector.memory.held import HeldMemory, HeldSegment
from inspector.memory.observations import Observations
from inspector.memory.recording import Recording
from inspector.records.columns import CATEGORIES as TAPE_CATEGORIES
from inspector.records.columns import KINDS, PHASES, Columns, split_tape
from inspector.records.memory import RunMemory
from inspector.records.report import Report
from inspector.records.tape import Event, EventKind
from inspector.render.page.colors import CATEGORIES, COLORS
from inspector.render.page.thinning import Noted, Thinner

__all__ = ["MOST_EVENTS", "SCHEMA", "build_page_data"]

SCHEMA = "inspector-page/1"
# Some three megabytes.
MOST_EVENTS = 200_000
_PLACES = {category: place for place, category in enumerate(CATEGORIES)}
_MADE, _EMPTIED = 0, -1
_UNUSED = -1
_ALLOCATE, _FREE, _EMPTY = (KINDS.index(kind) for kind in (EventKind.ALLOCATE, EventKind.FREE, EventKind.EMPTY_CACHE))
_LONGEST_NAME = 300
# Those of `Noted`, in its order.
_Fields = tuple[int, int, int, int, int, int, bool]


def build_page_data(report: Report, recording: Recording, most_events: int = MOST_EVENTS) -> dict[str, Any]:
    """Return what the page draws of a run, with about so many events at most; `recording` is that of the report."""
    memory = report.memory
    if memory is None:
        raise ValueError("the report is of no run")
    allocator = CachingAllocator(
        recording.settings, limit_bytes=recording.limit_bytes, descending_addresses=recording.descending_addresses
    )
    events = _Events(allocator, memory, most_events, len(recording.tape))
    for piece in split_tape(recording.tape):
        events.add(piece)
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


class _Memo(dict[tuple[int, int], int]):
    """Places of pairs of a piece of the tape, each looked up once."""

    def __init__(self, find: Callable[[tuple[int, int]], int]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, pair: tuple[int, int]) -> int:
        """Look up a pair."""
        place = self[pair] = self._find(pair)
        return place


class _Events:
    """The events of a run in the columns of the page, written down as they are replayed."""

    def __init__(self, allocator: CachingAllocator, memory: RunMemory, most_events: int, length: int) -> None:
        self.segments: list[HeldSegment] = []
        self._held = HeldMemory(allocator)
        self._seen = Observations(allocator, is_long=length > most_events)
        self._left = memory.peak.event_index + 1  # until the peak
        self._places, self._kinds, self._stretches = _Index(), _Index(), _Index()
        self._columns = _Columns(self._stretches)
        # Of a run that is short enough nothing is left out.
        self._thinner = Thinner(most_events) if length > most_events else None
        self._makers: dict[int, Event] = {}

    def add(self, piece: Columns) -> None:
        """Replay the next events and write them down."""
        if 0 < self._left <= len(piece):
            until = self._left
            self._replay(piece.cut(0, until), ends_at_peak=True)
            piece = piece.cut(until, len(piece))
        self._replay(piece, ends_at_peak=False)

    def _replay(self, piece: Columns, *, ends_at_peak: bool) -> None:
        """Replay events, and write down what lives after them where they end at the peak."""
        before = len(self._seen.reserved_bytes)
        failure = self._seen.add(piece)
        if failure is not None:
            raise ValueError(f"memory ran out: {failure}")
        if self._left > 0:
            self._note_makers(piece)
            if ends_at_peak:
                self._held.jump((self._makers[name], block) for name, block in self._seen.list_alive())
                self.segments = list(self._held.list_segments())
        self._left -= len(piece)
        self._note(piece, self._seen.reserved_bytes[before:], ends_at_peak=ends_at_peak)

    def _note_makers(self, piece: Columns) -> None:
        """Note which event made each block that lives after the last ones."""
        alive = {name for name, _ in self._seen.list_alive()}
        self._makers = {name: event for name, event in self._makers.items() if name in alive}
        for index, (kind, name) in enumerate(zip(piece.kind, piece.block, strict=True)):
            if kind == _ALLOCATE and name in alive:
                self._makers[name] = piece[index]

    def _note(self, piece: Columns, reserved_bytes: Sequence[int], *, ends_at_peak: bool) -> None:
        """Write down events that touch memory."""
        noted = self._list_noted(piece, reserved_bytes, ends_at_peak=ends_at_peak)
        if self._thinner is None:
            self._columns.fill(noted)
            return
        for event in noted:
            self._thinner.add(Noted(*event))

    def _list_noted(self, piece: Columns, reserved_bytes: Sequence[int], *, ends_at_peak: bool) -> Iterator[_Fields]:
        """Yield the fields of events that touch memory."""
        sizes, find_kind = self._seen.block_bytes, self._kinds.find
        places = [_PLACES[category] for category in TAPE_CATEGORIES]
        pairs = _Memo(lambda pair: self._places.find((piece.modules[pair[0]], piece.ops[pair[1]])))
        stretches = _Memo(lambda stretch: self._stretches.find((stretch[0], PHASES[stretch[1]])))
        last = len(piece) - 1 if ends_at_peak else -1
        columns = (piece.kind, piece.block, piece.category, reserved_bytes)
        names = zip(piece.module, piece.op, strict=True), zip(piece.step, piece.phase, strict=True)
        for index, (kind, block, category, reserved, pair, stretch) in enumerate(zip(*columns, *names, strict=True)):
            if kind == _ALLOCATE:
                size = sizes[block]
                if size:
                    number = find_kind((size, places[category]))
                    yield block, size, number, pairs[pair], stretches[stretch], reserved, index == last
            elif kind == _FREE:
                size = sizes[block]
                if size:
                    yield block, -size, -1, pairs[pair], stretches[stretch], reserved, index == last
            elif kind == _EMPTY:
                number = find_kind((0, places[category]))
                yield block, 0, number, pairs[pair], stretches[stretch], reserved, index == last

    def describe(self, peak_bytes: int) -> dict[str, Any]:
        """Return the columns, and where the peak of so many bytes is in them."""
        columns = self._columns
        if self._thinner is not None:
            columns.fill(self._thinner.list_events())
        names, operations = _Index(), _Index()
        pairs = [(names.find(module), operations.find(op)) for module, op in self._places.list_items()]
        return {
            "peak": {"event": columns.peak, "bytes": peak_bytes},
            "names": [one_line(name, _LONGEST_NAME) for name in names.list_items()],
            "operations": [one_line(name, _LONGEST_NAME) for name in operations.list_items()],
            "pairs": pairs,
            "kinds": self._kinds.list_items(),
            "events_of_the_run": len(columns.events) if self._thinner is None else self._thinner.count,
            "runs": columns.runs,
            "stretches": columns.stretches,
            "events": columns.events,
            "block_kinds": columns.block_kinds,
            "reserved": columns.reserved,
        }


class _Columns:
    """The events that are kept, in columns."""

    def __init__(self, stretches: _Index) -> None:
        self.peak = 0
        self.events: list[int] = []
        self.runs: list[int] = []  # a pair and how many events it holds for, one after the other
        self.block_kinds: list[int] = []
        self.stretches: list[list[Any]] = []
        self.reserved: list[int] = []  # an event and the bytes from it on, one after the other
        self._names_of_stretches = stretches
        self._numbers: dict[int, int] = {}  # of each living block, by its name on the tape
        self._last = (-1, -1, -1)

    def fill(self, noted: Iterable[_Fields]) -> None:
        """Write down the next events."""
        events, runs, block_kinds, numbers = self.events, self.runs, self.block_kinds, self._numbers
        last_pair, last_stretch, last_reserved = self._last
        for index, (block, change, kind, pair, stretch, reserved, is_peak) in enumerate(noted, len(events)):
            if is_peak:
                self.peak = index
            if stretch != last_stretch:
                last_stretch = stretch
                step, phase = self._names_of_stretches.list_items()[stretch]
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
                events.append(_MADE)
            else:
                events.append(len(block_kinds) - numbers.pop(block) if change else _EMPTIED)
        self._last = last_pair, last_stretch, last_reserved


def _describe_segment(segment: HeldSegment) -> list[Any]:
    """Return a segment at the peak: whether it is of the small pool, then category and bytes of its stretches."""
    stretches: list[int] = []
    for block in segment.blocks:
        category = _UNUSED if block.made_by is None else _PLACES[block.made_by.category]
        if stretches and stretches[-2] == category:
            stretches[-1] += block.bytes  # blocks of one category beside each other are drawn as one
        else:
            stretches += [category, block.bytes]
    return [int(segment.is_small), *stretches]
