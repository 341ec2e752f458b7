"""Two tapes of one step laid beside each other: that of a shallow model, and that of one with one more layer.

A layer index is what the two models differ by: a period of layers where kinds alternate. The tapes are compared stretch
by stretch, a stretch being a run of events of one step and phase. Where they part, the deeper one holds a run of events
that the other lacks and that repeats what stands before it: that is what a layer adds there. A size that grows with the
layers (the norms of all gradients in one tensor) grows by the same number of bytes with each layer.

An event that ends a block is described by the block's *rank*: among the live blocks of one size that came about in the
same way it is the n-th newest, or the n-th oldest, in both tapes. The numbers in module paths are linear, too: in the
number of layers and, where events repeat, in the repetition. A forward pass counts its layers up, a backward pass down.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from inspector.records.tape import MAKING, Event

__all__ = ["PathNumbers", "PreparedTape", "Rank", "Run", "Signatures", "Step", "align", "make_speller"]

# How many events must match after an insertion: as many as possible, since the next insertion may follow soon.
_LOOKAHEADS = (16, 8, 4, 2, 1)
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")

_Numbers = tuple[int, ...]
# How many live blocks of the kind are newer and older than the block of an event; None where it ends no block.
_Ranks = tuple["int | None", "int | None"]
_NO_RANKS: _Ranks = (None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """Which of the live blocks of one kind: `place` in order of age, from the oldest or from the newest."""

    from_newest: bool
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PathNumbers:
    """The numbers in the module path of an event, from left to right, where `layers` were added to the shallow model.

    Each is `shallow` + `per_layer` x layers + `per_repetition` x repetition, the first repetition being 1. Events that
    are there once have repetition 0.
    """

    shallow: _Numbers
    per_layer: _Numbers
    per_repetition: _Numbers

    def compute(self, layers: int, repetition: int) -> _Numbers:
        """Return the numbers."""
        parts = zip(self.shallow, self.per_layer, self.per_repetition, strict=True)
        return tuple(number + layers * gain + repetition * stride for number, gain, stride in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An event of the deeper tape as one of the shallower: its index in the stretch there, and what its size gains.

    `rank` is None where the event ends no block, `numbers` where its module path is that of the shallow tape.
    """

    source: int
    gain_bytes: int = 0
    rank: Rank | None = None
    numbers: PathNumbers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Steps that are taken once (`repeats` false), or once for each further layer."""

    steps: Sequence[Step]
    repeats: bool


class Signatures:
    """Numbers that stand for how events came about: two events have one number where all but sizes and blocks is equal.

    The numbers in module paths do not count: the layers of a model are to look alike.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}
        self._paths: dict[str, tuple[str, _Numbers]] = {}

    def sign_event(self, event: Event) -> tuple[int, _Numbers]:
        """Return the signature of an event without its block, and the numbers in its module path."""
        path = self._paths.get(event.module)
        if path is None:
            numbers = tuple(map(int, _NUMBER.findall(event.module)))
            path = self._paths[event.module] = _NUMBER.sub("*", event.module), numbers
        return self._number((event.kind, event.phase, event.step, event.category, path[0], event.op)), path[1]

    def sign_free(self, free: int, allocation: int) -> int:
        """Return the signature of an event that ends a block, by those of the two events."""
        return self._number((free, allocation))

    def _number(self, values: Hashable) -> int:
        return self._known.setdefault(values, len(self._known))


class PreparedTape:
    """A tape prepared for comparing.

    For each event `signatures` says how it came about, and `numbers` are those in its module path. `block_kinds` holds
    the kinds of blocks as numbers in the order in which they appear, -1 where an event has none: blocks are of one kind
    where size and signature are equal.
    """

    def __init__(self, tape: Sequence[Event], known: Signatures) -> None:
        self.tape = tape
        self.signatures: list[int] = []
        self.block_kinds: list[int] = []
        self.ranks: list[_Ranks] = []
        self.numbers: list[_Numbers] = []
        kinds: dict[tuple[int, int], int] = {}
        live: defaultdict[int, list[int]] = defaultdict(list)
        allocations: dict[int, tuple[int, int]] = {}
        for event in tape:
            signature, numbers = known.sign_event(event)
            kind, ranks = -1, _NO_RANKS
            if event.kind in MAKING:
                kind = kinds.setdefault((signature, event.bytes), len(kinds))
                allocations[event.block] = signature, kind
                live[kind].append(event.block)
            elif event.block in allocations:
                allocation, kind = allocations[event.block]
                signature = known.sign_free(signature, allocation)
                same_kind = live[kind]
                place = same_kind.index(event.block)
                ranks = len(same_kind) - 1 - place, place
                del same_kind[place]
            self.signatures.append(signature)
            self.block_kinds.append(kind)
            self.ranks.append(ranks)
            self.numbers.append(numbers)

    def split(self) -> Iterator[range]:
        """Yield the indices of each stretch."""
        start = 0
        for _, events in itertools.groupby(self.tape, key=lambda event: (event.step, event.phase)):
            end = start + sum(1 for _ in events)
            yield range(start, end)
            start = end

    def describe(self, stretch: range) -> Hashable:
        """Return what is equal for two stretches if the same happens in them in the same order, whatever the sizes."""
        part = slice(stretch.start, stretch.stop)
        return tuple(zip(self.signatures[part], self.ranks[part], self.numbers[part], strict=True))


def align(shallow: PreparedTape, deeper: PreparedTape, stretch: range, deeper_stretch: range) -> Sequence[Run] | None:
    """Return the events of the deeper stretch as those of the shallower, None where one is not made of the other."""
    return _Alignment(shallow, deeper, stretch, deeper_stretch).align()


def make_speller(path: str, numbers: PathNumbers | None, layers: int) -> Callable[[int], str]:
    """Return what gives a module path the numbers that it has in a repetition; None leaves it as it is."""
    if numbers is None:
        return lambda _repetition: path
    first, *rest = _NUMBER.split(path)
    firsts, strides = numbers.compute(layers, 0), numbers.per_repetition
    if len(rest) == 1:
        return lambda repetition: f"{first}{firsts[0] + repetition * strides[0]}{rest[0]}"
    parts = list(zip(firsts, strides, rest, strict=True))
    return lambda repetition: first + "".join(f"{start + repetition * stride}{text}" for start, stride, text in parts)


class _Alignment:
    """One stretch of two tapes laid beside each other: `index` is of the shallow tape, `deeper_index` of the other."""

    def __init__(self, shallow: PreparedTape, deeper: PreparedTape, stretch: range, deeper_stretch: range) -> None:
        self._shallow = shallow
        self._deeper = deeper
        self._start, self._end = stretch.start, stretch.stop
        self._deeper_start, self._deeper_end = deeper_stretch.start, deeper_stretch.stop
        # The numbers in the path of each event of the deeper stretch so far: without and per layer, where an event
        # repeats those of its last repetition.
        self._numbers: list[tuple[_Numbers, _Numbers]] = []

    def align(self) -> list[Run] | None:
        """Go through both stretches at once."""
        index, deeper_index = self._start, self._deeper_start
        runs: list[Run] = []
        once: list[Step] = []
        repeated: list[Step] = []
        while index < self._end or deeper_index < self._deeper_end:
            length = 0 if self._matches(index, deeper_index) else self._find_insertion(index, deeper_index)
            for offset in range(length):
                step = self._repeat_event(index - length + offset, deeper_index + offset, length)
                if step is None:
                    return None
                repeated.append(step)
            if length:
                deeper_index += length
                continue
            step = self._match_event(index, deeper_index)
            if step is None:
                return None
            if repeated:
                runs += [Run(steps=once, repeats=False), Run(steps=repeated, repeats=True)]
                once, repeated = [], []
            once.append(step)
            index, deeper_index = index + 1, deeper_index + 1
        return [*runs, Run(steps=once, repeats=False), Run(steps=repeated, repeats=True)]

    def _matches(self, index: int, deeper_index: int) -> bool:
        """Tell whether two events are the same, on blocks of one rank."""
        shallow, deeper = self._shallow, self._deeper
        return (
            index < self._end
            and deeper_index < self._deeper_end
            and shallow.tape[index].bytes == deeper.tape[deeper_index].bytes
            and shallow.signatures[index] == deeper.signatures[deeper_index]
            and _has_common_rank(shallow.ranks[index], deeper.ranks[deeper_index])
        )

    def _find_insertion(self, index: int, deeper_index: int) -> int:
        """Return how many events the deeper tape has before the two match again, 0 where it has none."""
        rest = self._end - index
        longest = self._deeper_end - deeper_index - rest
        if not rest:
            return longest if self._repeats(deeper_index, longest) else 0
        # Where one insertion says all a shorter one says too little: layers before those that repeat may be alike.
        if self._match_ahead(index, deeper_index + longest, rest, is_sized=True) and self._repeats(
            deeper_index, longest
        ):
            return longest
        for is_sized, ahead in itertools.product((True, False), _LOOKAHEADS):
            for length in range(1, longest + 1):
                if self._match_ahead(index, deeper_index + length, min(ahead, rest), is_sized) and self._repeats(
                    deeper_index, length
                ):
                    return length
        return 0

    def _match_ahead(self, index: int, deeper_index: int, ahead: int, is_sized: bool) -> bool:
        """Tell whether the next events of the tapes match, with their sizes or without."""
        if is_sized:
            return all(self._matches(index + offset, deeper_index + offset) for offset in range(ahead))
        return (
            self._shallow.signatures[index : index + ahead]
            == self._deeper.signatures[deeper_index : deeper_index + ahead]
        )

    def _repeats(self, deeper_index: int, length: int) -> bool:
        """Tell whether the events from `deeper_index` on repeat as many before them, sizes included."""
        tape, signatures = self._deeper.tape, self._deeper.signatures
        return deeper_index - length >= self._deeper_start and all(
            tape[index].bytes == tape[index - length].bytes and signatures[index] == signatures[index - length]
            for index in range(deeper_index, deeper_index + length)
        )

    def _match_event(self, index: int, deeper_index: int) -> Step | None:
        """Return an event that both tapes have, None where they have not."""
        shallow, deeper = self._shallow, self._deeper
        if (
            index == self._end
            or deeper_index == self._deeper_end
            or shallow.signatures[index] != deeper.signatures[deeper_index]
        ):
            return None
        gain = deeper.tape[deeper_index].bytes - shallow.tape[index].bytes
        if gain < 0 or not _has_common_rank(shallow.ranks[index], deeper.ranks[deeper_index]):
            return None
        before = shallow.numbers[index]
        per_layer = _subtract(deeper.numbers[deeper_index], before)
        self._numbers.append((before, per_layer))
        return Step(
            source=index - self._start,
            gain_bytes=gain,
            rank=_find_common_rank(shallow.ranks[index], deeper.ranks[deeper_index]),
            numbers=_keep_changed_numbers(before, before, per_layer, (0,) * len(before)),
        )

    def _repeat_event(self, index: int, deeper_index: int, length: int) -> Step | None:
        """Return an event that the deeper tape alone has, as the one that it repeats, which both have."""
        shallow, deeper = self._shallow, self._deeper
        if index < self._start or not _has_common_rank(deeper.ranks[deeper_index - length], deeper.ranks[deeper_index]):
            return None
        before, per_layer = self._numbers[deeper_index - length - self._deeper_start]
        stride = _subtract(deeper.numbers[deeper_index], deeper.numbers[deeper_index - length])
        self._numbers.append((before, tuple(map(sum, zip(per_layer, stride, strict=True)))))
        return Step(
            source=index - self._start,
            rank=_find_common_rank(deeper.ranks[deeper_index - length], deeper.ranks[deeper_index]),
            numbers=_keep_changed_numbers(shallow.numbers[index], before, per_layer, stride),
        )


def _has_common_rank(ranks: _Ranks, others: _Ranks) -> bool:
    """Tell whether two events end blocks of one rank, or none."""
    return ranks[0] == others[0] or ranks[1] == others[1]


def _find_common_rank(ranks: _Ranks, others: _Ranks) -> Rank | None:
    """Return the rank that the blocks of two events have in common, None where they end none."""
    from_newest = ranks[0] == others[0]
    place = ranks[0] if from_newest else ranks[1]
    return None if place is None else Rank(from_newest=from_newest, place=place)


def _subtract(numbers: _Numbers, others: _Numbers) -> _Numbers:
    """Return the differences."""
    return tuple(number - other for number, other in zip(numbers, others, strict=True))


def _keep_changed_numbers(
    source: _Numbers, shallow: _Numbers, per_layer: _Numbers, per_repetition: _Numbers
) -> PathNumbers | None:
    """Return the numbers of a path, None where they are always those of its source."""
    if source == shallow and not any(per_layer) and not any(per_repetition):
        return None
    return PathNumbers(shallow=shallow, per_layer=per_layer, per_repetition=per_repetition)
