"""What happens in a step, whatever the sizes: a traced tape, and how it becomes that of the whole model.

The same step at another batch or another row length makes the same blocks in the same order; only their sizes differ.
Those of the optimizer stay. Those of the forward and the backward pass are traced for the first update alone
(`Course.sizes_after`): a later update makes the same blocks, less what is made once, such as the workspaces of
libraries, so that each of its blocks has its like there. tests/trace holds such steps against steps that were traced
to their end, event by event.

Sizes are arrays with one number for each event of the traced tape: that of the block where one is made, 0 elsewhere.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from inspector.extrapolate.layers import Deepening
from inspector.memory.allocator.settings import MIN_BLOCK_BYTES
from inspector.memory.replay import Requests
from inspector.records.tape import Category, Event, EventKind, Phase

__all__ = ["Course", "Sizes", "sizes_of"]

Sizes: TypeAlias = NDArray[np.int64]


def sizes_of(tape: Iterable[Event]) -> Sizes:
    """Return the sizes of a traced tape."""
    return np.array([event.bytes if event.kind is EventKind.ALLOCATE else 0 for event in tape], dtype=np.int64)


def _is_pass(event: Event) -> bool:
    """Tell whether an event comes before the optimizer's first step."""
    return event.step == 0 or (event.step == 1 and event.phase is not Phase.OPTIMIZER)


class Course:
    """The events of a traced tape without their sizes, and the requests that they are on the whole model.

    `deepening` is None where the whole model was traced. `shape` is equal where the same blocks are made and freed.
    """

    def __init__(self, traced: Sequence[Event], deepening: Deepening | None) -> None:
        self.traced = traced
        self.deepening = deepening or Deepening(
            range(len(traced)), [event.block for event in traced], [0] * len(traced)
        )
        self.shape = hash(tuple((event.kind, event.block) for event in traced))
        self.sizes = sizes_of(traced)
        self._passes = sum(1 for _ in itertools.takewhile(_is_pass, traced))
        self._set_requests()

    def _set_requests(self) -> None:
        """Work out which requests there are, and which block each ends."""
        kinds = [event.kind for event in self.traced]
        makes = np.array([kind is EventKind.ALLOCATE for kind in kinds])
        sources = np.array(self.deepening.sources, dtype=np.int64)
        self._sources = sources
        self._added = np.array(self.deepening.added_bytes, dtype=np.int64)
        blocks = np.array(self.deepening.blocks, dtype=np.int64)
        self._blocks = blocks
        is_made = makes[self._sources]
        self._signs = np.where(is_made, 1, -1)
        # Block -1 stands for all of them, where what is cached is given back.
        indices = np.arange(len(blocks))
        makers = np.zeros(blocks.max(initial=-1) + 2, dtype=np.int64)
        makers[blocks[is_made]] = indices[is_made]
        self._makers = np.where(is_made | (blocks < 0), indices, makers[blocks])

    def _deep(self, sizes: Sizes) -> Sizes:
        """Return the sizes of the requests, 0 where a block ends."""
        return np.where(self._signs > 0, sizes[self._sources] + self._added, 0)

    def requests(self, sizes: Sizes) -> Requests:
        """Return the requests of the whole model's step; a block of no bytes takes no memory and requests nothing."""
        deep = self._deep(sizes)
        takes_memory = (deep[self._makers] > 0) | (self._blocks < 0)
        return zip(self._blocks[takes_memory].tolist(), deep[takes_memory].tolist(), strict=True)

    def least_peak(self, sizes: Sizes) -> int:
        """Return how many bytes are allocated at the peak at least."""
        return int(self._held(sizes).max())

    def peaks_of_passes(self, sizes: Sizes) -> tuple[int, int]:
        """Return the peak of what the forward and the backward passes make beside gradients, and that of all else."""
        of_passes = self._is_of_passes
        return int(self._held(sizes, of_passes).max()), int(self._held(sizes, ~of_passes).max())

    def _held(self, sizes: Sizes, counts: NDArray[np.bool_] | None = None) -> Sizes:
        """Return what is held at least after each request, of those blocks that count.

        An allocator hands out no less than what was asked for in units of 512 bytes.
        """
        rounded = -(-self._deep(sizes) // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES
        changes = rounded[self._makers] * self._signs
        return np.cumsum(changes if counts is None else np.where(counts, changes, 0))

    @functools.cached_property
    def _is_of_passes(self) -> NDArray[np.bool_]:
        """Tell of each request whether its block is one that a pass makes, and no gradient."""
        known = [
            event.phase in (Phase.FORWARD, Phase.BACKWARD) and event.category is not Category.GRADIENTS
            for event in self.traced
        ]
        of_passes: NDArray[np.bool_] = np.array(known)[self._sources[self._makers]]
        return of_passes

    def tape(self, sizes: Sizes) -> list[Event]:
        """Return the tape of the whole model; module paths hold the numbers of the layers that ran."""
        made: dict[int, int] = {}
        tape = []
        steps = zip(self.deepening.sources, self.deepening.blocks, self.deepening.added_bytes, strict=True)
        for source, block, added in steps:
            event = self.traced[source]
            if event.kind is EventKind.ALLOCATE:
                made[block] = int(sizes[source]) + added
            # A free tells the size of its block, which need not be that of the block that the source frees.
            tape.append(event._replace(block=block, bytes=made.get(block, 0)))
        return tape

    def sizes_after(self, passes: Sequence[Event]) -> Sizes | None:
        """Return the sizes of the step whose first passes these are, None where they are not those of this course."""
        if len(passes) != self._passes or any(
            _without_size(one) != _without_size(other) for one, other in zip(passes, self.traced, strict=False)
        ):
            return None
        if self._likes is None:
            return None
        sizes: Sizes = self.sizes.copy()
        sizes[: self._passes] = sizes_of(passes)
        later, earlier = self._likes
        sizes[later] = sizes[earlier]
        return sizes

    @functools.cached_property
    def _likes(self) -> NDArray[np.int64] | None:
        """Return which blocks later updates make (first row) and their likes in the first one (second row).

        None where one has none. What is left out has the same size whatever the batch.
        """
        makes = [index for index, event in enumerate(self.traced) if event.kind is EventKind.ALLOCATE]
        first: dict[Phase, list[int]] = defaultdict(list)
        for index in makes:
            if index < self._passes:
                first[self.traced[index].phase].append(index)
        later = (index for index in makes if index >= self._passes)
        found: list[tuple[int, int]] = []
        waiting: dict[tuple[int, Phase], Iterator[int]] = {}
        for key, stretch in itertools.groupby(
            later, key=lambda index: (self.traced[index].step, self.traced[index].phase)
        ):
            if key[1] is Phase.OPTIMIZER:
                # Before its first pass an update counts its labels, as the first one did when all was loaded.
                pairs = zip(reversed(list(stretch)), reversed(first[Phase.LOAD]), strict=False)
                found += itertools.takewhile(lambda pair: self._making(pair[0]) == self._making(pair[1]), pairs)
                continue
            likes = waiting.setdefault(key, iter(first[key[1]]))
            for index in stretch:
                like = next((each for each in likes if self._making(each) == self._making(index)), None)
                if like is None:
                    return None
                found.append((index, like))
        by_row: NDArray[np.int64] = np.array(found, dtype=np.int64).reshape(-1, 2).T
        return by_row

    def _making(self, index: int) -> tuple[str, str, int]:
        """Return by what a block of one update has its like in another: the module, the operation and the size."""
        event = self.traced[index]
        return event.module, event.op, event.bytes


def _without_size(event: Event) -> tuple[EventKind, int, Phase, str, str]:
    """Return what stays of an event at another size; its category depends on what follows."""
    return event.kind, event.block, event.phase, event.module, event.op
