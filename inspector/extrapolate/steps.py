"""The tape of a long generation, from tapes of short ones.

Steps that follow one another do the same: the same blocks in the same order, of which each frees what the step before
it made. What pads rows to multiples of 8 does the same in every eighth step (`_PERIOD`). So two short generations are
traced, one at the first length and one that ends at the last, and the steps in between follow: their structure from the
steps around them, where it is one and the same, their sizes from laws that explain every size that was traced
(`size_laws`). Where the structures differ something changes on the way, such as a window that is full from there on, or
no law fits: then a generation in the middle is traced, and so on, until what changes lies in a traced step.
tests/extrapolate holds such tapes against tapes whose steps were all traced, event by event.

A *piece* is a traced generation of `PIECE` tokens that starts `shift` tokens later than the whole one does: its step n
is the step n + shift there.
"""

from __future__ import annotations

import itertools
from array import array
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inspector.extrapolate.layers import MOST_EVENTS, TooManyEventsError
from inspector.extrapolate.size_laws import FlashCall, Keys, SizeTable, find_sizes
from inspector.extrapolate.template import TapeTemplate
from inspector.records.tape import EventKind

__all__ = ["PIECE", "StepExtrapolation", "extrapolate_steps"]

# Two steps of every remainder by 8, after the first few and before the last one.
PIECE = 24
# Steps before this one still see what the prompt left.
_FIRST_STEADY = 4
_PERIOD = 8
# A step frees what was made in it or in the two before: so many steps of a structure follow one another.
_STEADY = _PERIOD + 2
_MOST_PIECES = 20
_FLASH = "aten._scaled_dot_product_flash_attention.default"

_Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepExtrapolation:
    """How the tapes of pieces become that of the whole generation.

    The traced tape is that of all pieces one after the other, and `whole` is the number of its event on the whole
    model that each event is made of. `sources`, `blocks` and `added_bytes` are as in `LayerExtrapolation`, `steps` says
    which step an event belongs to. `names` are the module paths of the events that `whole` counts. `traced_steps` says
    how many were traced.
    """

    whole: _Numbers
    sources: _Numbers
    blocks: _Numbers
    added_bytes: _Numbers
    steps: _Numbers
    names: Sequence[str]
    traced_steps: int

    def name_modules(self, _traced: object) -> Iterator[str]:
        """Yield the module path of each event."""
        return (self.names[index] for index in self.whole)

    def number_modules(self, traced: object) -> tuple[array[int], Sequence[str]]:
        """Return a number for the module path of each event, and the paths by their numbers."""
        numbers: dict[str, int] = {}
        return array("i", [numbers.setdefault(name, len(numbers)) for name in self.name_modules(traced)]), tuple(
            numbers
        )


class _Piece:
    """A traced piece as steps: for each its structure, and the sizes of what it makes."""

    def __init__(self, template: TapeTemplate, shift: int) -> None:
        deep = template.extrapolation
        traced = template.traced
        self.template = template
        self.shift = shift
        self.sources = np.array(deep.sources, dtype=np.int64)
        self.blocks = np.array(deep.blocks, dtype=np.int64)
        self.added = np.array(deep.added_bytes, dtype=np.int64)
        self.names = list(deep.name_modules(traced))
        self.is_allocation = np.array([traced[source].kind is EventKind.ALLOCATE for source in deep.sources])
        self.sizes = np.where(self.is_allocation, template.sizes[self.sources] + self.added, 0)
        steps = np.array([traced[source].step for source in deep.sources], dtype=np.int64)
        self.last = int(steps[-1])
        starts = np.searchsorted(steps, np.arange(self.last + 2))
        self._ranges = [range(int(first), int(end)) for first, end in itertools.pairwise(starts)]
        self._made = _find_makers(self.blocks, self.is_allocation)
        self._place = np.arange(len(steps)) - starts[steps]
        self._step_of = steps
        self._lasting = self._name_lasting()
        self._known: dict[int, Hashable] = {}

    def events(self, step: int) -> range:
        """Return the events of a step of the piece."""
        return self._ranges[step]

    def structure(self, step: int) -> Hashable:
        """Return what is equal for two steps that do the same, whatever the sizes."""
        if step not in self._known:
            self._known[step] = tuple(
                self._sign(index) if self.is_allocation[index] else self.find_freed(index)
                for index in self.events(step)
            )
        return self._known[step]

    def find_sizes(self, step: int) -> _Numbers:
        """Return the sizes of what a step makes, 0 where it frees."""
        events = self.events(step)
        return self.sizes[events.start : events.stop]

    def find_freed(self, index: int) -> tuple[Hashable, ...]:
        """Return which block an event frees: one that this step made or one of the two before it, or one that lasts."""
        maker = int(self._made[index])
        made, age = int(self._step_of[maker]), int(self._step_of[index] - self._step_of[maker])
        if made > 1 and age <= 2:
            return ("step", age, int(self._place[maker]))
        return ("lasting", *self._lasting.get(maker, (made, maker)))

    def find_lasting(self) -> dict[Hashable, int]:
        """Return the blocks that outlive the prompt's step, by what they are called in every piece."""
        return {("lasting", *name): int(self.blocks[maker]) for maker, name in self._lasting.items()}

    def find_head(self) -> range:
        """Return the first steady steps, as far as each does what the one a period before it did."""
        end = _FIRST_STEADY + _PERIOD
        while end < self.last and self.structure(end) == self.structure(end - _PERIOD):
            end += 1
        return range(_FIRST_STEADY, end)

    def find_tail(self) -> range:
        """Return the last ones before the last step, likewise."""
        start = self.last - _PERIOD
        while start > _FIRST_STEADY and self.structure(start - 1) == self.structure(start - 1 + _PERIOD):
            start -= 1
        return range(start, self.last)

    def find_calls(self, step: int) -> list[FlashCall]:
        """Return the calls of flash attention in a step; columns count the events of the step."""
        traced, sources = self.template.traced, self.sources
        own = [
            place
            for place, index in enumerate(self.events(step))
            if self.is_allocation[index] and traced[sources[index]].op == _FLASH
        ]
        calls = []
        while own:
            output, sums, *rest = own
            sizes = self.find_sizes(step)[own]
            has_parts = len(rest) > 1 and sizes[2] >= 2 * sizes[1] and not sizes[2] % sizes[1]
            has_parts = bool(has_parts and sizes[3] >= 32 * sizes[2])
            calls.append(FlashCall(output=output, sums=sums, parts=(rest[0], rest[1]) if has_parts else None))
            own = own[6 if has_parts else 4 :]
        return calls

    def _sign(self, index: int) -> Hashable:
        event = self.template.traced[self.sources[index]]
        return event.phase, event.op, event.category, self.names[index]

    def _name_lasting(self) -> dict[int, tuple[Hashable, ...]]:
        """Name the blocks that are made before the first decode step and live then: how they came about, counted."""
        first = self._ranges[2].start if self.last > 1 else len(self.blocks)
        freed = {
            int(maker)
            for index, maker in enumerate(self._made[:first])
            if not self.is_allocation[index] and self.blocks[index] >= 0
        }
        counts: defaultdict[Hashable, int] = defaultdict(int)
        named: dict[int, tuple[Hashable, ...]] = {}
        for index in range(first):
            if self.is_allocation[index] and index not in freed:
                key = (int(self._step_of[index]), self._sign(index))
                named[index] = (*key, counts[key])
                counts[key] += 1
        return named


def _find_makers(blocks: _Numbers, is_allocation: NDArray[np.bool_]) -> _Numbers:
    """Return the index of the event that made the block of each event."""
    makers = np.zeros(int(blocks.max(initial=0)) + 1, dtype=np.int64)
    indices = np.arange(len(blocks))
    makers[blocks[is_allocation]] = indices[is_allocation]
    return np.asarray(makers[blocks])


# --- which steps are made of which ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """Steps of the whole generation, `first` until before `end`, made of a piece.

    Each is the piece's own or, where `sizes` has its sizes, repeats one of the piece's last steps: the one that is
    whole periods before it.
    """

    piece: _Piece
    first: int
    end: int
    sizes: Mapping[int, _Numbers] | None = None

    def find_source(self, step: int) -> int:
        """Return the step of the piece that a step is made of."""
        own = step - self.piece.shift
        if self.sizes is None:
            return own
        last = self.piece.last - 1
        return last - (last - own) % _PERIOD


def extrapolate_steps(trace: Callable[[int], TapeTemplate], new_tokens: int, keys: Keys) -> TapeTemplate | None:
    """Return the tape of a generation of `new_tokens`, None where pieces of it do not say what the whole does.

    `trace` returns the tape of the piece with a shift. Raises TooManyEventsError where the tape would be too long.
    """
    pieces = {shift: _Piece(trace(shift), shift) for shift in (0, new_tokens - PIECE)}
    near, far = pieces.values()
    events = new_tokens * len(far.events(far.last - 1))
    if events > MOST_EVENTS:
        most = new_tokens * MOST_EVENTS // events
        raise TooManyEventsError(
            f"{new_tokens:,} tokens make more than {MOST_EVENTS:,} allocations and frees: use at most {most:,} "
            "`new_tokens`"
        )

    between = _connect(near, far, pieces, trace, keys)
    if between is None:
        return None
    stretches = [
        _Stretch(piece=near, first=0, end=near.last),
        *between,
        _Stretch(piece=far, first=far.shift + far.last, end=far.shift + far.last + 1),
    ]
    return _assemble(stretches, [pieces[shift] for shift in sorted(pieces)])


def _connect(
    one: _Piece, other: _Piece, pieces: dict[int, _Piece], trace: Callable[[int], TapeTemplate], keys: Keys
) -> list[_Stretch] | None:
    """Return the steps from the end of what `one` has literally to the last but one of `other`.

    What is traced between them is added to `pieces`. A function of its own: one inside another that calls itself would
    be a cycle, which keeps its pieces.
    """
    found = _join(one, other) or _fill(one, other, keys)
    if found is not None:
        return found
    middle = (one.shift + other.shift) // 2
    if middle in (one.shift, other.shift) or len(pieces) == _MOST_PIECES:
        return None
    pieces[middle] = _Piece(trace(middle), middle)
    before = _connect(one, pieces[middle], pieces, trace, keys)
    after = None if before is None else _connect(pieces[middle], other, pieces, trace, keys)
    return None if before is None or after is None else [*before, *after]


def _join(one: _Piece, other: _Piece) -> list[_Stretch] | None:
    """Return the other's own steps where the last two of `one` are two of its own, and do the same; None where not."""
    end = one.shift + one.last
    if end - 2 < other.shift + 2 or any(
        one.structure(step - one.shift) != other.structure(step - other.shift) for step in (end - 2, end - 1)
    ):
        return None
    return [_Stretch(piece=other, first=end, end=other.shift + other.last)]


def _fill(one: _Piece, other: _Piece, keys: Keys) -> list[_Stretch] | None:
    """Return the steps between two pieces, and the other's own after them, where they are of one structure."""
    tail, head = one.find_tail(), other.find_head()
    first, end = one.shift + one.last, other.shift + head.start + 2
    if end <= first or len(tail) < _STEADY:
        return None
    sizes: dict[int, _Numbers] = {}
    for residue in range(_PERIOD):
        own = [(one, step) for step in tail if (step + one.shift) % _PERIOD == residue]
        others = [(other, step) for step in head if (step + other.shift) % _PERIOD == residue]
        if own[-1][0].structure(own[-1][1]) != others[0][0].structure(others[0][1]):
            return None
        samples = [*own, *others]
        table = SizeTable(
            steps=np.array([step + piece.shift for piece, step in samples]),
            sizes=np.array([piece.find_sizes(step) for piece, step in samples]),
        )
        wanted = np.array([step for step in range(first, end) if step % _PERIOD == residue], dtype=np.int64)
        found = find_sizes(table, wanted, one.find_calls(own[-1][1]), keys) if len(wanted) else None
        if found is None and len(wanted):
            return None
        sizes |= {int(step): row for step, row in zip(wanted, found if found is not None else (), strict=True)}
    return [
        _Stretch(piece=one, first=first, end=end, sizes=sizes),
        _Stretch(piece=other, first=end, end=other.shift + other.last),
    ]


# --- the whole tape ---------------------------------------------------------------------------------------------------


def _assemble(stretches: Sequence[_Stretch], pieces: Sequence[_Piece]) -> TapeTemplate | None:
    """Return the tape that stretches make, None where one frees what nothing made."""
    traced = [event for piece in pieces for event in piece.template.traced]
    source_offsets = dict(
        zip(map(id, pieces), np.cumsum([0, *(len(piece.template.traced) for piece in pieces)]), strict=False)
    )
    whole_offsets = dict(zip(map(id, pieces), np.cumsum([0, *(len(piece.blocks) for piece in pieces)]), strict=False))
    names = [name for piece in pieces for name in piece.names]
    # Loading and the prompt come first, in the numbers of their piece.
    lasting = stretches[0].piece.find_lasting()
    recent: dict[int, _Numbers] = {}  # the blocks of the last steps, by the places of their events
    count = 0
    columns: dict[str, list[_Numbers]] = defaultdict(list)
    for stretch in stretches:
        piece = stretch.piece
        plans: dict[int, _Plan] = {}
        for step in range(stretch.first, stretch.end):
            own = stretch.find_source(step)
            plan = plans.get(own)
            if plan is None:
                plan = plans[own] = _Plan.make(piece, own)
            blocks = plan.number(recent, lasting, step, count)
            if blocks is None:
                return None
            count += plan.made
            recent[step] = blocks
            recent.pop(step - 3, None)
            events = plan.events
            wanted = piece.sizes[events] if stretch.sizes is None else stretch.sizes[step]
            added = np.where(plan.is_allocation, wanted - piece.template.sizes[piece.sources[events]], 0)
            columns["whole"].append((events + whole_offsets[id(piece)]).astype(np.int32))
            columns["sources"].append((piece.sources[events] + source_offsets[id(piece)]).astype(np.int32))
            columns["blocks"].append(blocks.astype(np.int32))
            columns["added_bytes"].append(added)
            columns["steps"].append(np.full(len(events), step, dtype=np.int32))
    # Numbers of events and blocks have few digits; each column of parts ends where it is joined.
    few = {"added_bytes": np.int64}
    joined = {name: np.concatenate(columns.pop(name), dtype=few.get(name, np.int32)) for name in list(columns)}
    traced_steps = sum(piece.last for piece in pieces)
    return TapeTemplate(traced, StepExtrapolation(**joined, names=names, traced_steps=traced_steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How the blocks of a step are numbered: its events, which of them make a block, and what the others free."""

    piece: _Piece
    events: _Numbers
    is_allocation: NDArray[np.bool_]
    made: int
    # By age the places of events that free a block of that step, and the places of what made these.
    freed: Sequence[tuple[int, _Numbers, _Numbers]]
    lasting: Sequence[tuple[int, Hashable]]

    @classmethod
    def make(cls, piece: _Piece, step: int) -> _Plan:
        """Plan a step of a piece."""
        events = np.array(piece.events(step), dtype=np.int64)
        is_allocation = piece.is_allocation[events]
        by_age: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        lasting: list[tuple[int, Hashable]] = []
        for place in np.flatnonzero(~is_allocation).tolist() if step > 1 else ():
            freed = piece.find_freed(int(events[place]))
            if freed[0] == "step":
                by_age[int(str(freed[1]))].append((place, int(str(freed[2]))))
            else:
                lasting.append((place, freed))
        return cls(
            piece=piece,
            events=events,
            is_allocation=is_allocation,
            made=int(is_allocation.sum()),
            freed=[(age, *np.array(pairs, dtype=np.int64).T) for age, pairs in by_age.items()],
            lasting=lasting,
        )

    def number(
        self, recent: dict[int, _Numbers], lasting: dict[Hashable, int], step: int, count: int
    ) -> _Numbers | None:
        """Return the blocks of the step's events, None where one is not known; `count` were made before."""
        if step <= 1:  # loading and the prompt come first, in the numbers of their piece
            return self.piece.blocks[self.events]
        blocks = np.full(len(self.events), -1, dtype=np.int64)
        blocks[self.is_allocation] = np.arange(count, count + self.made)
        for age, places, makers in sorted(self.freed, key=lambda item: -item[0]):
            source = blocks if age == 0 else recent.get(step - age)
            if source is None or makers.max() >= len(source):
                return None
            blocks[places] = source[makers]
        for place, name in self.lasting:
            block = lasting.get(name)
            if block is None:
                return None
            blocks[place] = block
        return blocks
