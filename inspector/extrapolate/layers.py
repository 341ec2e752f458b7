"""The tape of a deep model, from the tapes of two shallow ones that differ by one of its repeated layers.

What a layer adds to a tape, in one place or in several (an optimizer goes through its lists once for each of its
operations), is found by laying the two tapes beside each other (`extrapolate.alignment`). The deep model has it once
for each of its layers. Two tapes that do not go together like that say nothing, and the deep model is traced whole.
tests/extrapolate holds extrapolated tapes against those of whole models, event by event.
"""

from __future__ import annotations

import itertools
from array import array
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from inspector.extrapolate.alignment import PathNumbers, PreparedTape, Run, Signatures, Step, align, make_speller
from inspector.records.tape import MAKING, Event

__all__ = ["MOST_EVENTS", "LayerExtrapolation", "LayerExtrapolator", "TooManyEventsError"]

# An event is 8 bytes in each of a dozen arrays and lists.
MOST_EVENTS = 6_000_000


class TooManyEventsError(Exception):
    """The tape would be longer than what can be worked with; the message says by how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerExtrapolation:
    """How the tape of a shallow model becomes that of one with `layers` more.

    For each event of the deep tape: the index of its source in the shallow one, its block, what is added to the size
    there, and which of `renamings` gives the numbers in its module path, which depend on the repetition; None leaves
    the path as it is.
    """

    layers: int
    sources: Sequence[int]
    blocks: Sequence[int]
    added_bytes: Sequence[int]
    renaming: Sequence[int]
    renamings: Sequence[PathNumbers | None]
    repetitions: Sequence[int]

    @property
    def steps(self) -> None:
        """Return that an event belongs to the step of its source."""

    @classmethod
    def from_whole_tape(cls, traced: Sequence[Event]) -> LayerExtrapolation:
        """Return the one that leaves the tape of a whole model as it is."""
        return cls(
            layers=0,
            sources=range(len(traced)),
            blocks=[event.block for event in traced],
            added_bytes=[0] * len(traced),
            renaming=[0] * len(traced),
            renamings=(None,),
            repetitions=[0] * len(traced),
        )

    def name_modules(self, traced: Sequence[Event]) -> Iterator[str]:
        """Yield the module path of each event of the deep tape."""
        numbers, names = self.number_modules(traced)
        return map(names.__getitem__, numbers)

    def number_modules(self, traced: Sequence[Event]) -> tuple[array[int], Sequence[str]]:
        """Return a number for the module path of each event of the deep tape, and the paths by their numbers."""
        # A path and its renaming are one of few; with the repetition they say the path of the deep tape.
        paths = [event.module for event in traced]
        first_of = {path: place for place, path in reversed(list(enumerate(paths)))}
        sources = np.array([first_of[path] for path in paths], dtype=np.int64)[np.asarray(self.sources, dtype=np.int64)]
        pairs, pair = np.unique(sources * len(self.renamings) + np.asarray(self.renaming), return_inverse=True)
        keys = pair * (self.layers + 1) + np.asarray(self.repetitions)
        firsts = np.full(len(pairs) * (self.layers + 1), len(keys), dtype=np.int64)
        firsts[keys[::-1]] = np.arange(len(keys))[::-1]
        found = np.flatnonzero(firsts < len(keys))
        known: dict[str, int] = {}
        numbers = np.zeros(len(firsts), dtype=np.int64)
        spell = [
            make_speller(paths[source], self.renamings[renaming], self.layers)
            for source, renaming in (divmod(item, len(self.renamings)) for item in pairs.tolist())
        ]
        for key in found[np.argsort(firsts[found])].tolist():  # in the order of the tape
            index, repetition = divmod(key, self.layers + 1)
            numbers[key] = known.setdefault(spell[index](repetition), len(known))
        column = array("i")
        column.frombytes(numbers[keys].astype(column.typecode).tobytes())
        return column, tuple(known)


class LayerExtrapolator:
    """Knows what a further layer adds to the stretches of tapes, by what happens in them.

    A stretch that was seen once is known in other tapes, too: the forward pass does not depend on the optimizer.
    """

    def __init__(self) -> None:
        self._signatures = Signatures()
        # By what happens in a stretch, then by the sizes of those of its events whose size a layer adds to. Each entry
        # has a number, by which it is named in the key of an extrapolation.
        self._known: dict[Hashable, dict[tuple[int, ...], tuple[int, Sequence[Run]]]] = {}
        self._count = 0
        self._extrapolations: dict[Hashable, LayerExtrapolation | None] = {}
        self._prepared: PreparedTape | None = None

    def learn(self, shallow: Sequence[Event], deeper: Sequence[Event]) -> bool:
        """Learn from two tapes of which `deeper` has one layer more; return whether they go together."""
        pair = self._prepare(shallow), PreparedTape(deeper, self._signatures)
        stretches = [list(tape.split()) for tape in pair]
        if len(stretches[0]) != len(stretches[1]):
            return False
        for stretch, deeper_stretch in zip(*stretches, strict=True):
            runs = align(*pair, stretch, deeper_stretch)
            if runs is None:
                return False
            known = self._known.setdefault(pair[0].describe(stretch), {})
            known.setdefault(_find_growing_sizes(shallow, stretch, runs), (self._count, runs))
            self._count += 1
        return True

    def extrapolate(
        self, shallow: Sequence[Event], layers: int, *, most_events: int | None = None
    ) -> LayerExtrapolation | None:
        """Return how a tape gets `layers` more layers, None where something in it was not seen yet.

        Raises TooManyEventsError where the deep tape would have more than `most_events`, MOST_EVENTS where not given.
        """
        tape = self._prepare(shallow)
        found: list[tuple[int, Sequence[Run]]] = []
        names: list[tuple[int, int]] = []
        for stretch in tape.split():
            known = self._known.get(tape.describe(stretch), {}).items()
            match = next(
                (entry for sizes, entry in known if _find_growing_sizes(shallow, stretch, entry[1]) == sizes), None
            )
            if match is None:
                return None
            names.append((stretch.start, match[0]))
            found.append((stretch.start, match[1]))
        # Two tapes of the same stretches whose blocks fall into the same kinds become deep in the same way.
        key = layers, tuple(tape.block_kinds), tuple(names)
        count = sum(len(run.steps) * (layers if run.repeats else 1) for _, runs in found for run in runs)
        most = most_events or MOST_EVENTS
        if count > most:
            raise TooManyEventsError(
                f"the step of the whole model makes {count:,} allocations and frees, and no more than {most:,} "
                "can be worked with: use a shorter `seq_len`"
            )
        if key not in self._extrapolations:
            deep = _DeepTape(tape, layers)
            is_whole = all(deep.add(start, runs) for start, runs in found)
            self._extrapolations[key] = deep.finish() if is_whole else None
        return self._extrapolations[key]

    def _prepare(self, shallow: Sequence[Event]) -> PreparedTape:
        """Return a tape prepared for comparing; the last one is kept, which mostly is the next one, too."""
        if self._prepared is None or self._prepared.tape is not shallow:
            self._prepared = PreparedTape(shallow, self._signatures)
        return self._prepared


class _DeepTape:
    """A deep tape as it is put together from stretches of the shallow one."""

    def __init__(self, shallow: PreparedTape, layers: int) -> None:
        self._shallow = shallow
        self._layers = layers
        self._live: defaultdict[int, list[int]] = defaultdict(list)
        self._count = 0
        # Arrays: a tape may have millions of events.
        self._sources, self._blocks, self._added_bytes = array("q"), array("q"), array("q")
        self._renamings: dict[PathNumbers | None, int] = {None: 0}
        self._renaming, self._repetitions = array("q"), array("q")

    def add(self, start: int, runs: Sequence[Run]) -> bool:
        """Add a stretch that starts at `start` in the shallow tape; return whether its frees find their blocks."""
        for run in runs:
            repetitions = range(1, self._layers + 1) if run.repeats else (0,)
            times = len(repetitions)
            self._sources.extend(array("q", [start + step.source for step in run.steps]) * times)
            self._added_bytes.extend(array("q", [step.gain_bytes * self._layers for step in run.steps]) * times)
            known = self._renamings
            renaming = [known.setdefault(step.numbers, len(known)) for step in run.steps]
            self._renaming.extend(array("q", renaming) * times)
            for repetition in repetitions:
                self._repetitions.extend(array("q", [repetition]) * len(run.steps))
            if not self._add_blocks(start, run.steps, times):
                return False
        return True

    def finish(self) -> LayerExtrapolation:
        """Return what was put together."""
        return LayerExtrapolation(
            layers=self._layers,
            sources=self._sources,
            blocks=self._blocks,
            added_bytes=self._added_bytes,
            renaming=self._renaming,
            renamings=tuple(self._renamings),
            repetitions=self._repetitions,
        )

    def _add_blocks(self, start: int, steps: Sequence[Step], times: int) -> bool:
        """Add the block of each event: a new one, or the one of its rank; return whether that lives."""
        tape, kinds = self._shallow.tape, self._shallow.block_kinds
        events = [(tape[start + step.source], kinds[start + step.source], step.rank) for step in steps]
        live, blocks = self._live, self._blocks
        for event, kind, rank in itertools.chain.from_iterable(itertools.repeat(events, times)):
            if event.kind in MAKING:
                live[kind].append(self._count)
                blocks.append(self._count)
                self._count += 1
            elif rank is None:  # an event without a block
                blocks.append(event.block)
            else:
                same_kind = live[kind]
                place = len(same_kind) - 1 - rank.place if rank.from_newest else rank.place
                if not 0 <= place < len(same_kind):
                    return False
                blocks.append(same_kind.pop(place))
        return True


def _find_growing_sizes(tape: Sequence[Event], stretch: range, runs: Sequence[Run]) -> tuple[int, ...]:
    """Return the sizes in a stretch that a layer adds to."""
    return tuple(tape[stretch.start + step.source].bytes for run in runs for step in run.steps if step.gain_bytes)
