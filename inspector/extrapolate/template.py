"""What happens in a step, whatever the sizes: a traced tape as a template for steps of other sizes and more layers.

The same step at another batch size or sequence length makes the same blocks in the same order; only their sizes differ.
Those of the optimizer stay. Those of the forward and the backward pass are traced for the first update alone
(`TapeTemplate.derive_sizes`): a later update makes the same blocks, less what is made once, such as the workspaces of
libraries, so that each of its blocks has a matching block there. tests/extrapolate holds such steps against steps that
were traced to their end, event by event.

Sizes are arrays with one number for each event of the traced tape: that of the block where one is made, 0 elsewhere.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from array import array
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inspector.extrapolate.layers import LayerExtrapolation
from inspector.memory.allocator.settings import MIN_BLOCK_BYTES
from inspector.memory.replay import Requests, list_requests
from inspector.records.columns import Columns
from inspector.records.tape import MAKING, Category, Event, EventKind, Phase

__all__ = ["OF_BATCHES", "Extrapolation", "Sizes", "TapeTemplate", "read_sizes"]

Sizes: TypeAlias = NDArray[np.int64]
_ON_HOST = frozenset((EventKind.HOST_ALLOCATE, EventKind.HOST_FREE))
# How the tensors of a batch come about: held from the start, or copied.
OF_BATCHES = ("load", "aten.clone.default")
_NUMBERS = {kind: number for number, kind in enumerate(EventKind)}
# Integers of Python that are made of an array at a time: each takes 32 bytes.
_AT_ONCE = 2**16
# The columns of a million events take 35 MB. Those of a long generation are gone through once, and made for it; a step
# of a model that scans is kept whole.
_LONGEST_KEPT = 400_000
_LONGEST_STEP_KEPT = 10_000_000


class Extrapolation(Protocol):
    """How a traced tape becomes that of the whole run.

    For each event of the latter: the index of its source in the traced tape, its block, what is added to the size there
    and, where that is not the source's, its step.
    """

    @property
    def sources(self) -> Sequence[int] | NDArray[np.int64]:
        """Return the index of each event's source."""

    @property
    def blocks(self) -> Sequence[int] | NDArray[np.int64]:
        """Return the block of each event."""

    @property
    def added_bytes(self) -> Sequence[int] | NDArray[np.int64]:
        """Return what is added to the size of each event's source."""

    @property
    def steps(self) -> NDArray[np.int64] | None:
        """Return the step of each event, None where it is that of its source."""

    def name_modules(self, traced: Sequence[Event]) -> Iterable[str]:
        """Return the module path of each event."""

    def number_modules(self, traced: Sequence[Event]) -> tuple[array[int], Sequence[str]]:
        """Return a number for the module path of each event, and the paths by their numbers."""


class _LongTape(Sequence[Event]):
    """A tape that is not kept: `make` yields its events anew."""

    def __init__(self, make: Callable[[], Iterator[Event]], length: int) -> None:
        self._make = make
        self._length = length

    def __len__(self) -> int:
        """Return the number of events."""
        return self._length

    def __iter__(self) -> Iterator[Event]:
        """Yield the events."""
        return self._make()

    def __getitem__(self, index: Any) -> Any:
        """Return an event, or some of them as a list: all before are made for it."""
        if isinstance(index, slice):
            return list(itertools.islice(self._make(), *index.indices(self._length)))
        place = range(self._length)[index]
        return next(itertools.islice(self._make(), place, None))


def _to_numbers(values: Any) -> NDArray[Any]:
    """Return integers as an array: those of a long tape are one already, of few bytes each."""
    return values if isinstance(values, np.ndarray) else np.asarray(values, dtype=np.int64)


def _list_numbers(values: NDArray[Any]) -> Iterator[int]:
    """Yield the elements of an array as Python's integers, not all of which are there at a time."""
    return itertools.chain.from_iterable(
        values[start : start + _AT_ONCE].tolist() for start in range(0, len(values), _AT_ONCE)
    )


def _spread(column: array[int], sources: NDArray[Any]) -> array[int]:
    """Return the element at each of the sources, as a column of the same kind."""
    found = array(column.typecode)
    found.frombytes(np.frombuffer(column, dtype=column.typecode)[sources].tobytes())
    return found


def _to_array(values: NDArray[Any]) -> array[int]:
    """Return integers as a column."""
    column = array("q")
    column.frombytes(np.ascontiguousarray(values, dtype=np.int64).tobytes())
    return column


def read_sizes(tape: Iterable[Event]) -> Sizes:
    """Return the sizes of a traced tape."""
    return np.array([event.bytes if event.kind in MAKING else 0 for event in tape], dtype=np.int64)


class TapeTemplate:
    """The events of a traced tape without their sizes, and the requests that they are on the whole model.

    `traced` is the tape, `sizes` are its own, `first_passes` is how many of its events come before the optimizer.
    `extrapolation` makes it that of the whole model; given as None, the
    whole model was traced.
    """

    def __init__(self, traced: Sequence[Event], extrapolation: Extrapolation | None) -> None:
        self.traced = traced
        self.extrapolation: Extrapolation = extrapolation or LayerExtrapolation.from_whole_tape(traced)
        self.sizes = read_sizes(traced)
        self._has_streams = any(event.stream for event in traced)
        self.first_passes = sum(1 for _ in itertools.takewhile(_is_in_first_passes, traced))
        self._set_requests()

    def _set_requests(self) -> None:
        """Work out which requests there are, and which request made the block that each ends."""
        makes = np.array([event.kind in MAKING for event in self.traced], dtype=np.bool_)
        self._sources = _to_numbers(self.extrapolation.sources)
        self._is_on_host = np.array([event.kind in _ON_HOST for event in self.traced], dtype=np.bool_)[self._sources]
        self._added = np.asarray(self.extrapolation.added_bytes, dtype=np.int64)
        self._blocks = _to_numbers(self.extrapolation.blocks)
        self._is_allocation = is_allocation = makes[self._sources]
        self._signs = np.where(self._is_on_host, 0, np.where(is_allocation, 1, -1)).astype(np.int8)
        # Block -1 stands for all of them, where what is cached is given back.
        indices = np.arange(len(self._blocks), dtype=np.int32)
        makers = np.zeros(self._blocks.max(initial=-1) + 2, dtype=np.int32)
        makers[self._blocks[is_allocation]] = indices[is_allocation]
        self._makers = np.where(is_allocation | (self._blocks < 0), indices, makers[self._blocks])

    @functools.cached_property
    def shape(self) -> Hashable:
        """Return what is equal for two traced tapes that make and free the same blocks in the same order."""
        blocks = np.array([event.block for event in self.traced], dtype=np.int64)
        kinds = np.array([_NUMBERS[event.kind] for event in self.traced], dtype=np.int8)
        return kinds.tobytes(), blocks.tobytes()

    def digest_requests(self, sizes: Sizes) -> str:
        """Return what is equal for steps that make the same requests, whatever they are for."""
        streams = np.array([event.stream for event in self.traced], dtype=np.int64)[self._sources]
        columns = (self._blocks, self._request_sizes(sizes), self._is_allocation, self._is_on_host, streams)
        digest = hashlib.sha256()
        for column in columns:
            digest.update(np.ascontiguousarray(column, dtype=np.int64).tobytes())
        return digest.hexdigest()[:32]

    def make_requests(self, sizes: Sizes) -> Requests:
        """Return the requests of the whole model's step; a block of no bytes takes no memory and requests nothing."""
        if self._has_streams:
            return list_requests(self._make_events(sizes))
        requested = self._request_sizes(sizes)
        if requested[self._is_allocation].all() and not self._is_on_host.any():
            return zip(_list_numbers(self._blocks), _list_numbers(requested), strict=True)
        takes_memory = ((requested[self._makers] > 0) & ~self._is_on_host) | (self._blocks < 0)
        return zip(_list_numbers(self._blocks[takes_memory]), _list_numbers(requested[takes_memory]), strict=True)

    def make_tape(self, sizes: Sizes) -> Sequence[Event]:
        """Return the tape of the whole model; a long one is made anew each time that it is gone through."""
        if len(self._blocks) <= (_LONGEST_STEP_KEPT if self.extrapolation.steps is None else _LONGEST_KEPT):
            return self._make_columns(sizes)
        return _LongTape(lambda: self._make_events(sizes), len(self._blocks))

    def _make_columns(self, sizes: Sizes) -> Columns:
        """Return the events of the whole model as columns."""
        traced, deep = Columns.from_events(self.traced), self.extrapolation
        columns = {
            name: _spread(getattr(traced, name), self._sources)
            for name in ("kind", "phase", "category", "op", "stream")
        }
        modules, names = deep.number_modules(self.traced)
        return Columns(
            **columns,
            block=_to_array(self._blocks),
            bytes=_to_array(self._count_block_bytes(sizes)),
            step=_spread(traced.step, self._sources) if deep.steps is None else _to_array(deep.steps),
            module=modules,
            modules=names,
            ops=traced.ops,
        )

    def _count_block_bytes(self, sizes: Sizes) -> Sizes:
        """Return the size of each event's block: that of a free need not be that of the block that its source frees."""
        return np.where(self._blocks < 0, 0, self._request_sizes(sizes)[self._makers])

    def _make_events(self, sizes: Sizes) -> Iterator[Event]:
        """Yield the events of the whole model."""
        traced, deep = self.traced, self.extrapolation
        block_bytes = self._count_block_bytes(sizes)
        steps = itertools.repeat(None) if deep.steps is None else _list_numbers(deep.steps)
        numbers = (_list_numbers(self._sources), _list_numbers(self._blocks), _list_numbers(block_bytes))
        for source, block, size, module, step in zip(*numbers, deep.name_modules(traced), steps, strict=False):
            kind, _, phase, _, category, own_step, _, op, stream = traced[source]
            yield Event(kind, block, phase, size, category, own_step if step is None else step, module, op, stream)

    def bound_peak(self, sizes: Sizes) -> int:
        """Return a lower bound of the bytes that are allocated at the peak."""
        return int(self._bound_allocated(sizes).max())

    def split_peak(self, sizes: Sizes) -> tuple[int, int]:
        """Return lower bounds of two peaks: that of what the passes make beside gradients, and that of all else."""
        from_passes = self._is_from_passes
        return int(self._bound_allocated(sizes, from_passes).max()), int(
            self._bound_allocated(sizes, ~from_passes).max()
        )

    def derive_sizes(self, passes: Sequence[Event]) -> Sizes | None:
        """Return the sizes of the step with these first passes, None where it does not run as this one does."""
        if len(passes) != self.first_passes or any(
            _drop_size(event) != _drop_size(own) for event, own in zip(passes, self.traced, strict=False)
        ):
            return None
        if self._matching_blocks is None:
            return None
        sizes: Sizes = self.sizes.copy()
        sizes[: self.first_passes] = read_sizes(passes)
        later, earlier = self._matching_blocks
        sizes[later] = sizes[earlier]
        return sizes

    def _request_sizes(self, sizes: Sizes) -> Sizes:
        """Return the sizes of the requests, 0 where a block ends."""
        return np.where(self._is_allocation, sizes[self._sources] + self._added, 0)

    def _bound_allocated(self, sizes: Sizes, counts: NDArray[np.bool_] | None = None) -> Sizes:
        """Return a lower bound of what is allocated after each request, of those blocks that count.

        An allocator hands out no less than what was asked for in units of 512 bytes.
        """
        rounded = -(-self._request_sizes(sizes) // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES
        changes = rounded[self._makers] * self._signs
        return np.cumsum(changes if counts is None else np.where(counts, changes, 0))

    @functools.cached_property
    def _is_from_passes(self) -> NDArray[np.bool_]:
        """Tell of each request whether its block is one that a pass makes, and no gradient."""
        is_from_passes = [
            event.phase not in (Phase.LOAD, Phase.OPTIMIZER) and event.category is not Category.GRADIENTS
            for event in self.traced
        ]
        of_requests: NDArray[np.bool_] = np.array(is_from_passes)[self._sources[self._makers]]
        return of_requests

    @functools.cached_property
    def _matching_blocks(self) -> NDArray[np.int64] | None:
        """Return the blocks that later updates make, and below each its matching block in the first update.

        None where one has none. What is left out has the same size whatever the batch size.
        """
        allocations = [index for index, event in enumerate(self.traced) if event.kind in MAKING]
        first: dict[Phase, list[int]] = defaultdict(list)
        for index in allocations:
            if index < self.first_passes:
                first[self.traced[index].phase].append(index)
        later = (index for index in allocations if index >= self.first_passes)
        pairs: list[tuple[int, int]] = []
        candidates: dict[tuple[int, Phase], Iterator[int]] = {}
        for key, stretch in itertools.groupby(
            later, key=lambda index: (self.traced[index].step, self.traced[index].phase)
        ):
            if key[1] is Phase.OPTIMIZER:
                # Before its first pass an update is brought its batches and counts their labels, as the first one was
                # and did when all was loaded.
                (brought, others), (of_load, of_others) = map(self._split_batches, (stretch, first[Phase.LOAD]))
                if brought and len(brought) != len(of_load):
                    return None
                pairs += zip(brought, of_load, strict=False)
                ends = zip(reversed(others), reversed(of_others), strict=False)
                pairs += itertools.takewhile(lambda pair: self._match(*pair), ends)
                continue
            rest = candidates.setdefault(key, iter(first[key[1]]))
            for index in stretch:
                matching = next((candidate for candidate in rest if self._match(candidate, index)), None)
                if matching is None:
                    return None
                pairs.append((index, matching))
        indices: NDArray[np.int64] = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return indices

    def _split_batches(self, allocations: Iterable[int]) -> tuple[list[int], list[int]]:
        """Return those allocations that are of a batch, held from the start or copied, and the others."""
        found: tuple[list[int], list[int]] = [], []
        for index in allocations:
            event = self.traced[index]
            found[event.category is not Category.INPUTS or event.op not in OF_BATCHES].append(index)
        return found

    def _match(self, index: int, other: int) -> bool:
        """Tell whether two blocks came about alike: in one module, by one operation, of one size."""
        one, two = self.traced[index], self.traced[other]
        return (one.module, one.op, one.bytes) == (two.module, two.op, two.bytes)


def _is_in_first_passes(event: Event) -> bool:
    """Tell whether an event comes before the optimizer's first step."""
    return event.step == 0 or (event.step == 1 and event.phase is not Phase.OPTIMIZER)


def _drop_size(event: Event) -> tuple[EventKind, int, Phase, str, str]:
    """Return what stays of an event at another size; its category depends on what follows."""
    return event.kind, event.block, event.phase, event.module, event.op
