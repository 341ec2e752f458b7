"""The tape of a deep model, from the tapes of two shallow ones that differ by one more of its repeated layers.

A further layer (or period of layers, where kinds alternate) adds the same events to each stretch of the tape, in one
place or in several: an optimizer goes through its lists once for each of its operations. So the two tapes are laid
beside each other. Where they part, the deeper one holds a run of events that the other lacks and that repeats what
stands before it: that is what a layer adds there, and the deep model has it once for each of its layers. A size that
grows with the layers (the norms of all gradients in one tensor) grows by the same step each time.

Which block a free ends follows, too: among the live blocks of one size that were made alike it is the n-th newest, or
the n-th oldest, in both tapes. Two tapes that do not go together like that foretell nothing, and the deep model is
traced whole. tests/trace holds tapes that were foretold against those of whole models, event by event.

Does not cover: the numbers of layers in module paths, which stay those of the shallow model.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from inspector.records.tape import Event, EventKind

__all__ = ["Deepening", "Layers"]

# How many events must go on alike after an insertion: as many as possible, since the next one may follow soon.
_LOOKAHEADS = (16, 8, 4, 2, 1)
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")

# How an event came about, without its block; with the size at its end where it is that of a block.
_Making = tuple[object, ...]
# How many live blocks that were made alike are newer and older; None where an event ends none.
_Ranks = tuple["int | None", "int | None"]


@dataclass(frozen=True, slots=True)
class _Rank:
    """Which of the live blocks that were made alike: `place` in order of age, from the oldest or from the newest."""

    from_newest: bool
    place: int


@dataclass(frozen=True, slots=True)
class _Step:
    """An event of the deeper tape as one of the shallower: its index in the stretch there, and what its size gains.

    `rank` is None where a block is made.
    """

    source: int
    gain_bytes: int = 0
    rank: _Rank | None = None


@dataclass(frozen=True, slots=True)
class _Run:
    """Steps that are taken once (`repeats` false), or once for each further layer."""

    steps: Sequence[_Step]
    repeats: bool


@dataclass(frozen=True, slots=True)
class Deepening:
    """How a shallow tape becomes a deep one: for each event its source, its block and what is added to its size.

    `inspector.extrapolate.sizes` makes the deep tape of it.
    """

    sources: Sequence[int]
    blocks: Sequence[int]
    added_bytes: Sequence[int]


class Layers:
    """What a further layer adds to the stretches of tapes, by what happens in them.

    A layer here is what two tapes differ by: a period of layers where kinds alternate. A stretch that was seen once is
    known in other tapes, too: the forward pass does not depend on the optimizer.
    """

    def __init__(self) -> None:
        # By the form of the stretch, then by the sizes of those of its events whose size a layer adds to.
        self._known: dict[int, dict[tuple[int, ...], Sequence[_Run]]] = {}
        self._deepened: dict[tuple[object, ...], Deepening | None] = {}
        self._prepared: _Tape | None = None

    def learn(self, shallow: Sequence[Event], deeper: Sequence[Event]) -> bool:
        """Learn from two tapes of which `deeper` has one layer more; return whether they go together."""
        pair = self._tape(shallow), _Tape(deeper)
        stretches = [list(tape.stretches()) for tape in pair]
        if len(stretches[0]) != len(stretches[1]):
            return False
        for here, there in zip(*stretches, strict=True):
            runs = _Aligned(*pair, here, there).runs()
            if runs is None:
                return False
            self._known.setdefault(pair[0].form(here), {}).setdefault(_grown(shallow, here, runs), runs)
        return True

    def deepening(self, shallow: Sequence[Event], layers: int) -> Deepening | None:
        """Return how a tape gets `layers` more layers, None where something in it was not seen yet."""
        tape = self._tape(shallow)
        found: list[tuple[int, Sequence[_Run]]] = []
        for stretch in tape.stretches():
            known = self._known.get(tape.form(stretch), {}).items()
            runs = next((runs for sizes, runs in known if _grown(shallow, stretch, runs) == sizes), None)
            if runs is None:
                return None
            found.append((stretch.start, runs))
        # What is known is kept, so that it has its place in memory for a name. Two tapes of one form whose blocks fall
        # into the same kinds become deep in the same way.
        key = (layers, hash(tuple(tape.block_kinds)), *((start, id(runs)) for start, runs in found))
        if key not in self._deepened:
            deep = _Deep(tape, layers)
            is_whole = all(deep.add(start, runs) for start, runs in found)
            self._deepened[key] = Deepening(deep.sources, deep.blocks, deep.added_bytes) if is_whole else None
        return self._deepened[key]

    def _tape(self, shallow: Sequence[Event]) -> _Tape:
        """Return a tape prepared for comparing; the last one is kept, which mostly is the next one, too."""
        if self._prepared is None or self._prepared.tape is not shallow:
            self._prepared = _Tape(shallow)
        return self._prepared


class _Deep:
    """A deep tape in the making."""

    def __init__(self, shallow: _Tape, layers: int) -> None:
        self._shallow = shallow
        self._layers = layers
        self._live: defaultdict[int, list[int]] = defaultdict(list)
        self._count = 0
        self.sources: list[int] = []
        self.blocks: list[int] = []
        self.added_bytes: list[int] = []

    def add(self, start: int, runs: Sequence[_Run]) -> bool:
        """Add a stretch that starts at `start` in the shallow tape; return whether its frees find their blocks."""
        for run in runs:
            times = self._layers if run.repeats else 1
            self.sources += [start + step.source for step in run.steps] * times
            self.added_bytes += [step.gain_bytes * self._layers for step in run.steps] * times
            if not self._add_blocks(start, run.steps, times):
                return False
        return True

    def _add_blocks(self, start: int, steps: Sequence[_Step], times: int) -> bool:
        """Add the block of each event: a new one, or the one of its rank; return whether that lives."""
        tape, kinds = self._shallow.tape, self._shallow.block_kinds
        wanted = [(tape[start + step.source], kinds[start + step.source], step.rank) for step in steps]
        live, blocks = self._live, self.blocks
        for event, kind, rank in itertools.chain.from_iterable(itertools.repeat(wanted, times)):
            if event.kind is EventKind.ALLOCATE:
                live[kind].append(self._count)
                blocks.append(self._count)
                self._count += 1
            elif rank is None:  # an event without a block
                blocks.append(event.block)
            else:
                alike = live[kind]
                place = len(alike) - 1 - rank.place if rank.from_newest else rank.place
                if not 0 <= place < len(alike):
                    return False
                blocks.append(alike.pop(place))
        return True


class _Tape:
    """A tape prepared for comparing: what each event does, what made its block, and the block's rank."""

    def __init__(self, tape: Sequence[Event]) -> None:
        self.tape = tape
        self.newest: dict[int, int] = {}
        self.oldest: dict[int, int] = {}
        self.makings: list[_Making] = []
        # Which blocks are of one size and were made alike, as numbers in the order in which they are first made.
        self.block_kinds: list[int] = []
        kinds: dict[_Making, int] = {}
        live: defaultdict[int, list[int]] = defaultdict(list)
        made: dict[int, tuple[_Making, int]] = {}
        for index, event in enumerate(tape):
            making = _making(event)
            kind = -1
            if event.kind is EventKind.ALLOCATE:
                kind = kinds.setdefault((*making, event.bytes), len(kinds))
                made[event.block] = making, kind
                live[kind].append(event.block)
            elif event.block in made:
                of_block, kind = made[event.block]
                making = (*making, *of_block)
                alike = live[kind]
                place = alike.index(event.block)
                self.oldest[index], self.newest[index] = place, len(alike) - 1 - place
                del alike[place]
            self.makings.append(making)
            self.block_kinds.append(kind)

    def stretches(self) -> Iterator[range]:
        """Yield the indices of each run of events of one step and phase."""
        start = 0
        for _, events in itertools.groupby(self.tape, key=lambda event: (event.step, event.phase)):
            end = start + sum(1 for _ in events)
            yield range(start, end)
            start = end

    def ranks(self, index: int) -> _Ranks:
        """Return the ranks of the block of an event."""
        return self.newest.get(index), self.oldest.get(index)

    def form(self, stretch: range) -> int:
        """Return what tells a stretch from others: what happens in it, in which order."""
        return hash(tuple((self.makings[at], *self.ranks(at)) for at in stretch))


def _grown(tape: Sequence[Event], stretch: range, runs: Sequence[_Run]) -> tuple[int, ...]:
    """Return the sizes in a stretch that a layer adds to."""
    return tuple(tape[stretch.start + step.source].bytes for run in runs for step in run.steps if step.gain_bytes)


def _making(event: Event) -> _Making:
    """Return how an event came about."""
    return event.kind, event.phase, event.step, event.category, _without_numbers(event.module), event.op


@functools.cache
def _without_numbers(path: str) -> str:
    """Return a module path without the numbers of layers."""
    return _NUMBER.sub("*", path)


class _Aligned:
    """One stretch of two tapes laid beside each other."""

    def __init__(self, shallow: _Tape, deeper: _Tape, stretch: range, deeper_stretch: range) -> None:
        self._shallow = shallow
        self._deeper = deeper
        self._start, self._end = stretch.start, stretch.stop
        self._deeper_start, self._deeper_end = deeper_stretch.start, deeper_stretch.stop

    def runs(self) -> list[_Run] | None:
        """Return the events of the deeper stretch as those of the shallower, None where they do not go together."""
        here, there = self._start, self._deeper_start
        runs: list[_Run] = []
        once: list[_Step] = []
        more: list[_Step] = []
        while here < self._end or there < self._deeper_end:
            length = 0 if self._alike(here, there) else self._inserted(here, there)
            if length:
                steps = [self._insertion(here - length + at, there + at, length) for at in range(length)]
                more += [step for step in steps if step is not None]
                if None in steps:
                    return None
                there += length
                continue
            step = self._match(here, there)
            if step is None:
                return None
            if more:
                runs += [_Run(once, False), _Run(more, True)]
                once, more = [], []
            once.append(step)
            here, there = here + 1, there + 1
        return [*runs, _Run(once, False), _Run(more, True)]

    def _alike(self, here: int, there: int) -> bool:
        """Tell whether two events are the same, on blocks of one rank."""
        return (
            here < self._end
            and there < self._deeper_end
            and self._shallow.tape[here].bytes == self._deeper.tape[there].bytes
            and self._shallow.makings[here] == self._deeper.makings[there]
            and _step(here, 0, self._shallow.ranks(here), self._deeper.ranks(there)) is not None
        )

    def _inserted(self, here: int, there: int) -> int:
        """Return how many events the deeper tape has more before the two go on alike, 0 where it has none."""
        rest = self._end - here
        most = self._deeper_end - there - rest
        if not rest:
            return most if self._repeats(there, most) else 0
        for is_sized, ahead in itertools.product((True, False), _LOOKAHEADS):
            for length in range(1, most + 1):
                if self._goes_on(here, there + length, min(ahead, rest), is_sized) and self._repeats(there, length):
                    return length
        return 0

    def _goes_on(self, here: int, there: int, ahead: int, is_sized: bool) -> bool:
        """Tell whether the next events of the tapes are alike, with their sizes or without."""
        if is_sized:
            return all(self._alike(here + offset, there + offset) for offset in range(ahead))
        return self._shallow.makings[here : here + ahead] == self._deeper.makings[there : there + ahead]

    def _repeats(self, there: int, length: int) -> bool:
        """Tell whether the events from `there` on repeat as many before them, sizes included."""
        tape, makings = self._deeper.tape, self._deeper.makings
        return there - length >= self._deeper_start and all(
            tape[index].bytes == tape[index - length].bytes and makings[index] == makings[index - length]
            for index in range(there, there + length)
        )

    def _match(self, here: int, there: int) -> _Step | None:
        """Return an event that both tapes have, None where they have not."""
        shallow, deeper = self._shallow, self._deeper
        if here == self._end or there == self._deeper_end or shallow.makings[here] != deeper.makings[there]:
            return None
        gain = deeper.tape[there].bytes - shallow.tape[here].bytes
        if gain < 0:
            return None
        ranks = (
            (shallow.newest.get(here), shallow.oldest.get(here)),
            (deeper.newest.get(there), deeper.oldest.get(there)),
        )
        return _step(here - self._start, gain, *ranks)

    def _insertion(self, here: int, there: int, length: int) -> _Step | None:
        """Return an event that the deeper tape has more, as the one that it repeats, which both have."""
        if here < self._start:
            return None
        return _step(here - self._start, 0, self._deeper.ranks(there - length), self._deeper.ranks(there))


def _step(source: int, gain_bytes: int, ranks: _Ranks, other_ranks: _Ranks) -> _Step | None:
    """Return the step whose block has the rank that two events have in common, None where they have none."""
    for from_newest, place, other in ((True, ranks[0], other_ranks[0]), (False, ranks[1], other_ranks[1])):
        if place == other:
            return _Step(source, gain_bytes, None if place is None else _Rank(from_newest, place))
    return None
