"""The tape of a step from its first passes alone, where a step of another size was traced to its end.

Batch size and sequence length decide what passes do: a batch of several sequences is copied where one is a view. None
of that reaches an optimizer, and a later update does what the first one does, less what is made once, such as the
workspaces of libraries. So the rest of a step follows from its first passes: each later pass is the first one with the
changes that the traced step has there, and an optimizer does what it does in the traced step.

Blocks go by names: how they came about, counted. A change is believed where all that it names is found, of the same
size and in the same place, and where the passes leave the same blocks alive. Else there is no tape, and the
step has to be traced. tests/extrapolate/test_updates.py holds such tapes against traced ones, event by event.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from inspector.extrapolate.template import OF_BATCHES
from inspector.records.tape import MAKING, Category, Event, EventKind, Phase

__all__ = ["Updates"]

# The step in which a block was made, and how: phase, category, module and operation, counted.
_Name: TypeAlias = tuple[int, tuple[Phase, Category, str, str, int]]
# What an event is known by in every step: its kind, and its block's name with the step counted from its own.
_Key: TypeAlias = tuple[EventKind, int | None, tuple[Phase, Category, str, str, int] | None]


class _Named(NamedTuple):
    """An event with the name of its block, None where it has none."""

    event: Event
    name: _Name | None

    def find_key(self) -> _Key:
        """Return what the event is known by in every step; what was loaded is no step's."""
        if self.name is None:
            return self.event.kind, None, None
        made, how = self.name
        return self.event.kind, self.event.step - made if made else None, how

    def find_number(self) -> int:
        """Return the number of the block among those that came about alike."""
        return -1 if self.name is None else self.name[1][-1]

    def renumber(self, number: int) -> _Named:
        """Return the event of another one of them."""
        return self if self.name is None else _Named(self.event, (self.name[0], (*self.name[1][:-1], number)))

    def resize(self, size: int) -> _Named:
        """Return the event with another size."""
        return _Named(self.event._replace(bytes=size), self.name)


_Stretch: TypeAlias = Sequence[_Named]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """What a later pass does otherwise than the first one, which is the stretch with the number `place`.

    `left_out` are events of the first pass that it lacks, with their sizes. `ended` are the ends of further blocks, by
    the event of the first pass behind which they come, None where that is its begin.
    """

    place: int
    left_out: Mapping[_Key, int]
    ended: Mapping[_Key | None, _Stretch]


class Updates:
    """What follows the first passes on the tape of a training run, to be put behind first passes of another size."""

    def __init__(self, tape: Sequence[Event]) -> None:
        self._tape = tape

    def complete(self, passes: Sequence[Event]) -> list[Event] | None:
        """Return the tape that begins with these passes, None where what is known does not say how it goes on."""
        known, changes = self._passes, self._changes
        stretches = _split(passes)
        if changes is None or _find_ends(stretches) != self._ends:
            return None
        tape = _Tape(passes, stretches)
        for stretch, change in zip(self._stretches[len(known) :], changes, strict=True):
            if change is None:
                later = _resize_counts(stretch, known[0], stretches[0])
                later = None if later is None else tape.replace_batches(later, known[0], stretches[0])
            else:
                later = _apply(change, stretches[change.place], _find_phase(stretch)[0])
            if later is None or not tape.add(later):
                return None
        return tape.events

    @functools.cached_property
    def _stretches(self) -> Sequence[_Stretch]:
        """Return all stretches of the tape."""
        return _split(self._tape)

    @functools.cached_property
    def _passes(self) -> Sequence[_Stretch]:
        """Return those before the first update."""
        return list(itertools.takewhile(lambda item: not _is_update(item), self._stretches))

    @functools.cached_property
    def _ends(self) -> Any:
        """Return what passes of another size have to begin with and to end in."""
        return _find_ends(self._passes)

    @functools.cached_property
    def _changes(self) -> Sequence[_Change | None] | None:
        """Return the change of each stretch behind them, None for updates; None where a later step has other passes."""
        changes: list[_Change | None] = []
        first = [place for place, item in enumerate(self._passes) if _find_phase(item)[0] == 1]
        rest = itertools.groupby(self._stretches[len(self._passes) :], key=_is_update)
        for is_update, group in rest:
            if is_update:
                changes += [None for _ in group]
                continue
            for place, later in itertools.zip_longest(first, group):
                change = None if place is None or later is None else _compare(place, self._passes[place], later)
                if change is None:
                    return None
                changes.append(change)
        return changes


class _Tape:
    """A tape as it is put together: its `events`, and the blocks that live, by their names."""

    def __init__(self, passes: Sequence[Event], stretches: Iterable[_Stretch]) -> None:
        self.events = list(passes)
        self._count = sum(event.kind in MAKING for event in passes)
        self._live: dict[_Name, Event] = {}
        for event, name in itertools.chain.from_iterable(stretches):
            if name is not None and event.kind in MAKING:
                self._live[name] = event
            elif name is not None:
                del self._live[name]

    def replace_batches(self, update: _Stretch, loaded: _Stretch, others: _Stretch) -> _Stretch | None:
        """Return an update that is brought the batches of `others` and gives up theirs, not those of what was `loaded`.

        None where that is not whole batches at a time.
        """
        size, own_size = _count_batch(loaded), _count_batch(others)
        sizes = [item.event.bytes for item in others if _find_batch(item)]
        replaced: list[_Named] = []
        for batch, group in itertools.groupby(update, key=_find_batch):
            items = list(group)
            if batch is None:
                replaced += items
                continue
            numbers = [item.find_number() for item in items]
            first, count = numbers[0], len(numbers)
            if not size or first % size or count % size or numbers != list(range(first, first + count)):
                return None
            for number in range(first // size * own_size, (first + count) // size * own_size):
                item = items[0].renumber(number)
                if item.event.kind not in MAKING and item.name in self._live:
                    item = item.resize(self._live[item.name].bytes)
                elif number < len(sizes):
                    item = item.resize(sizes[number])
                replaced.append(item)
        return replaced

    def add(self, stretch: _Stretch) -> bool:
        """Add events with the numbers of their blocks; return whether those that they end live and are as large."""
        for event, name in stretch:
            if name is None:
                self.events.append(event)
                continue
            if event.kind in MAKING:
                numbered = self._live[name] = event._replace(block=self._count)
                self._count += 1
            else:
                made = self._live.pop(name, None)
                if made is None or made.bytes != event.bytes:
                    return False
                numbered = event._replace(block=made.block)
            self.events.append(numbered)
        return True


def _split(tape: Iterable[Event]) -> list[_Stretch]:
    """Return the stretches of a tape: events of one step and phase, with the names of their blocks."""
    counts: defaultdict[tuple[int, tuple[Phase, Category, str, str]], int] = defaultdict(int)
    names: dict[int, _Name] = {}
    stretches: list[_Stretch] = []
    for _, group in itertools.groupby(tape, key=lambda event: (event.step, event.phase)):
        stretch = []
        for event in group:
            if event.kind in MAKING:
                how = event.step, (event.phase, event.category, event.module, event.op)
                names[event.block] = how[0], (*how[1], counts[how])
                counts[how] += 1
            stretch.append(_Named(event, names.get(event.block)))
        stretches.append(stretch)
    return stretches


def _find_phase(stretch: _Stretch) -> tuple[int, Phase]:
    """Return step and phase of a stretch."""
    return stretch[0].event.step, stretch[0].event.phase


def _is_update(stretch: _Stretch) -> bool:
    """Tell whether a stretch is an optimizer's."""
    return _find_phase(stretch)[1] is Phase.OPTIMIZER


def _find_ends(passes: Sequence[_Stretch]) -> Any:
    """Return what all passes of a model have in common: phases, what is loaded, what they leave alive."""
    loaded = [
        (item.event.kind, item.name)
        for item in passes[0]
        if item.event.category is not Category.INPUTS and not item.event.step
    ]
    alive = set[_Name]()
    for event, name in itertools.chain.from_iterable(passes):
        if name is not None and event.step:
            (alive.add if event.kind in MAKING else alive.discard)(name)
    return list(map(_find_phase, passes)), loaded, alive


def _compare(place: int, first: _Stretch, later: _Stretch) -> _Change | None:
    """Return what a later pass does otherwise than the first one, None where that is more than a `_Change` says."""
    sizes = {item.find_key(): item.event.bytes for item in first}
    later_sizes = {item.find_key(): item.event.bytes for item in later}
    common = sizes.keys() & later_sizes.keys()
    is_alike = (
        _find_phase(first)[1] is _find_phase(later)[1]
        and (len(sizes), len(later_sizes)) == (len(first), len(later))
        and [pair for pair in sizes.items() if pair[0] in common]
        == [pair for pair in later_sizes.items() if pair[0] in common]
    )
    if not is_alike:
        return None
    ended: defaultdict[_Key | None, list[_Named]] = defaultdict(list)
    before: _Key | None = None
    for item, key in zip(later, later_sizes, strict=True):
        if key in common:
            before = key
        elif item.event.kind in MAKING:  # its size may depend on that of the batch
            return None
        else:
            ended[before].append(item)
    left_out = {key: size for key, size in sizes.items() if key not in common}
    return _Change(place=place, left_out=left_out, ended=ended)


def _apply(change: _Change, first: _Stretch, step: int) -> _Stretch | None:
    """Return the pass of a later step from the first one, None where the change finds no place in it."""
    keys = [item.find_key() for item in first]
    left_out = {key: item.event.bytes for item, key in zip(first, keys, strict=True) if key in change.left_out}
    if left_out != change.left_out:
        return None
    later = list(change.ended.get(None, ()))
    for item, key in zip(first, keys, strict=True):
        if key not in left_out:
            later.append(_move(item, step))
            later += change.ended.get(key, ())
    is_whole = change.ended.keys() <= {None, *keys}
    return later if is_whole else None


def _move(item: _Named, step: int) -> _Named:
    """Return an event of the first step as it is in another."""
    name = item.name if item.name is None or not item.name[0] else (item.name[0] + step - 1, item.name[1])
    return _Named(item.event._replace(step=step), name)


def _resize_counts(update: _Stretch, loaded: _Stretch, others: _Stretch) -> _Stretch | None:
    """Return an update that counts labels as many as were loaded by `others`, None where these count otherwise.

    Before its first pass a step counts its labels, as the first one did when all was `loaded`.
    """
    made, first, own = (
        [item for item in part if item.event.kind in MAKING and _find_batch(item) is None]
        for part in (update, loaded, others)
    )
    ends = zip(reversed(made), reversed(first), strict=False)
    counts = list(itertools.takewhile(lambda pair: _describe(pair[0]) == _describe(pair[1]), ends))
    own = own[::-1][: len(counts)]
    if [_describe(item)[:2] for item in own] != [_describe(item)[:2] for item, _ in counts]:
        return None
    sizes = {item.name: other.event.bytes for (item, _), other in zip(counts, own, strict=True)}
    return [item._replace(event=item.event._replace(bytes=sizes.get(item.name, item.event.bytes))) for item in update]


def _find_batch(item: _Named) -> Hashable:
    """Return what tensors of batches are brought or given up together by; None for any other block."""
    if item.name is None:
        return None
    made, (*how, _) = item.name
    is_of_batch = how[1] is Category.INPUTS and how[3] in OF_BATCHES
    return (item.event.kind, made, *how) if is_of_batch else None


def _count_batch(loaded: _Stretch) -> int:
    """Return how many tensors the batch has that was loaded first."""
    return sum(_find_batch(item) is not None and item.event.op == OF_BATCHES[0] for item in loaded)


def _describe(item: _Named) -> tuple[str, str, int]:
    """Return how the block of an event came about, and its size."""
    return item.event.module, item.event.op, item.event.bytes
