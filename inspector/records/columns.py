"""A tape as columns: an array for each field of its events, and texts by their number in a list.

What goes through a whole tape, such as a replay, reads the columns it needs; to whoever wants events it is a sequence
of them, each made when it is asked for. An event takes 35 bytes, where a tuple takes 150.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from inspector.records.tape import Category, Event, EventKind, Phase

__all__ = ["CATEGORIES", "KINDS", "PHASES", "Columns", "split_tape"]

KINDS = tuple(EventKind)
PHASES = tuple(Phase)
CATEGORIES = tuple(Category)
_KIND_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}
_PHASE_NUMBERS = {phase: number for number, phase in enumerate(PHASES)}
_CATEGORY_NUMBERS = {category: number for number, category in enumerate(CATEGORIES)}
# So many events of a tape that is not there at once become columns at a time.
_AT_ONCE = 2**16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns(Sequence[Event]):
    """The fields of a tape's events, by `Event`'s names, each as an array of integers of any width.

    `kind`, `phase` and `category` are places in KINDS, PHASES and CATEGORIES, `module` and `op` in `modules` and `ops`.
    """

    kind: array[int]
    block: array[int]
    phase: array[int]
    bytes: array[int]
    category: array[int]
    step: array[int]
    module: array[int]
    op: array[int]
    stream: array[int]
    modules: Sequence[str]
    ops: Sequence[str]

    @classmethod
    def from_events(cls, events: Iterable[Event]) -> Columns:
        """Return the columns of a tape."""
        rows = zip(*events, strict=True)
        kinds, blocks, phases, sizes, categories, steps, modules, ops, streams = tuple(rows) or ((),) * 9
        module_numbers = {name: number for number, name in enumerate(dict.fromkeys(modules))}
        op_numbers = {name: number for number, name in enumerate(dict.fromkeys(ops))}
        return cls(
            kind=array("b", map(_KIND_NUMBERS.__getitem__, kinds)),
            block=array("q", blocks),
            phase=array("b", map(_PHASE_NUMBERS.__getitem__, phases)),
            bytes=array("q", sizes),
            category=array("b", map(_CATEGORY_NUMBERS.__getitem__, categories)),
            step=array("i", steps),
            module=array("i", map(module_numbers.__getitem__, modules)),
            op=array("i", map(op_numbers.__getitem__, ops)),
            stream=array("i", streams),
            modules=tuple(module_numbers),
            ops=tuple(op_numbers),
        )

    def cut(self, start: int, stop: int) -> Columns:
        """Return some of the events as columns."""
        cut = {name: getattr(self, name)[start:stop] for name in Event._fields}
        return Columns(**cut, modules=self.modules, ops=self.ops)

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.kind)

    def __iter__(self) -> Iterator[Event]:
        """Yield the events."""
        return map(
            Event,
            map(KINDS.__getitem__, self.kind),
            self.block,
            map(PHASES.__getitem__, self.phase),
            self.bytes,
            map(CATEGORIES.__getitem__, self.category),
            self.step,
            map(self.modules.__getitem__, self.module),
            map(self.ops.__getitem__, self.op),
            self.stream,
        )

    def __getitem__(self, index: Any) -> Any:
        """Return an event, or some of them as a list."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return Event(
            KINDS[self.kind[index]],
            self.block[index],
            PHASES[self.phase[index]],
            self.bytes[index],
            CATEGORIES[self.category[index]],
            self.step[index],
            self.modules[self.module[index]],
            self.ops[self.op[index]],
            self.stream[index],
        )

    def __eq__(self, other: object) -> bool:
        """Tell whether another tape has the same events, in whatever form it is."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as lists


def split_tape(tape: Iterable[Event]) -> Iterator[Columns]:
    """Yield a tape as columns: all in one piece, or else in pieces of which one is there at a time."""
    if isinstance(tape, Columns):
        yield tape
        return
    events = iter(tape)
    while piece := list(itertools.islice(events, _AT_ONCE)):
        yield Columns.from_events(piece)
