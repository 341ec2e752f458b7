"""A tape replayed through the caching allocator: the one loop that every figure of memory comes from.

What the allocator sees of a tape are *requests*: a block and its size, 0 bytes where the block ends, block -1 where
what is cached is given back, and below that a change of the stream. `list_requests` makes them of events, one at a
time, and `carry_out` runs them. It asks for the next request when the last one is carried out and not before. So
whoever wants to watch stands between the tape and `list_requests` as a generator: after each event that it hands on,
the allocator is as that event left it (`memory.timeline`). Nothing watches where the only question is whether a step
runs and what it reserves (`Replays`), which a plan asks thousands of times.

A tape that frees what is not alive is a defect of whoever made it, and an error for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from inspector.memory.allocator.caching import Block, CachingAllocator, OutOfMemory
from inspector.memory.allocator.settings import AllocatorSettings
from inspector.memory.block_map import BlockMap
from inspector.records.columns import KINDS, Columns
from inspector.records.tape import Event, EventKind

__all__ = ["CACHED_BLOCKS", "STREAM_0", "Replay", "Replays", "Requests", "carry_out", "list_requests"]

Requests = Iterable[tuple[int, int]]
# The block of a request to give back what is cached.
CACHED_BLOCKS = -1
# Block STREAM_0 - n is no block: what is asked for next is asked for on stream n.
STREAM_0 = -2
_FREED = -1


def list_requests(events: Iterable[Event]) -> Iterator[tuple[int, int]]:
    """Yield the requests of a tape, each when it is asked for; zero-size tensors take no block and request nothing.

    Blocks of the host are none of the allocator's.

    Raises ValueError with the event's index where the tape contradicts itself.
    """
    allocate, free = EventKind.ALLOCATE, EventKind.FREE
    rows: Iterable[tuple[EventKind, int, int, int]]
    if isinstance(events, Columns):
        rows = zip(map(KINDS.__getitem__, events.kind), events.block, events.bytes, events.stream, strict=True)
    else:
        rows = ((event.kind, event.block, event.bytes, event.stream) for event in events)
    sizes: dict[int, int] = {}  # of each block that lives
    known = BlockMap()  # whether one has ended
    stream = 0
    for index, (kind, block, size, asked_on) in enumerate(rows):
        if kind is allocate:
            if block in sizes or block in known:
                raise ValueError(f"event {index}: block {block} is allocated a second time")
            if size < 0:
                raise ValueError(f"event {index}: block {block} of {size} bytes")
            sizes[block] = size
            if size:
                if asked_on != stream:
                    stream = asked_on
                    yield STREAM_0 - stream, 0
                yield block, size
        elif kind is free:
            size = sizes.pop(block, _FREED)
            if size == _FREED:
                state = "was freed before" if block in known else "was never allocated"
                raise ValueError(f"event {index}: free of block {block}, which {state}")
            known[block] = 1
            if size:
                yield block, 0
        elif kind is EventKind.EMPTY_CACHE:
            yield CACHED_BLOCKS, 0


def carry_out(requests: Requests, allocator: CachingAllocator) -> OutOfMemory | None:
    """Run requests through an allocator and return the failure that ended them, None where all were carried out.

    Raises ValueError where a block is freed that is not alive.
    """
    allocate, free = allocator.allocate, allocator.free
    live: dict[int, Block] = {}
    for name, size in requests:
        if size:
            block = allocate(size)
            if isinstance(block, OutOfMemory):
                return block
            live[name] = block
            continue
        freed = live.pop(name, None)
        if freed is not None:
            free(freed)
        elif name == CACHED_BLOCKS:
            allocator.empty_cache()
        elif name <= STREAM_0:
            allocator.use_stream(STREAM_0 - name)
        else:
            raise ValueError(f"block {name} is freed, and is not alive")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The peaks of a replay, and the request that failed under its limit, which ended it."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    failure: OutOfMemory | None = None


class Replays:
    """The replays of one step under the rules of one allocator. `make_requests` returns its requests anew each time.

    `recall` is asked for the replay under a limit; it returns what it has, or what the function that it is given finds.
    """

    def __init__(
        self,
        make_requests: Callable[[], Requests],
        settings: AllocatorSettings | None = None,
        *,
        descending_addresses: bool = False,
        recall: Callable[[int | None, Callable[[], Replay]], Replay] = lambda _limit, work: work(),
    ) -> None:
        self._make_requests = make_requests
        self._settings = settings
        self._descending = descending_addresses
        self._recall = recall
        self._by_limit: dict[int | None, Replay] = {}

    @classmethod
    def from_tape(
        cls, tape: Sequence[Event], settings: AllocatorSettings | None = None, *, descending_addresses: bool = False
    ) -> Replays:
        """Return the replays of a tape; raise ValueError where it contradicts itself."""
        requests = list(list_requests(tape))
        return cls(lambda: requests, settings, descending_addresses=descending_addresses)

    @property
    def unlimited(self) -> Replay:
        """Return the replay on a device without an end."""
        return self.under(None)

    def run_under(self, limit_bytes: int, left_bytes: int = 0) -> bool:
        """Tell whether the step runs under a limit and leaves so much of it unreserved.

        What is known without a limit serves where it stays below: a limit that is not reached changes nothing.
        """
        unlimited = self._by_limit.get(None)
        is_known = unlimited is not None and unlimited.peak_reserved_bytes <= limit_bytes
        replay = unlimited if unlimited is not None and is_known else self.under(limit_bytes)
        return replay.failure is None and replay.peak_reserved_bytes <= limit_bytes - left_bytes

    def under(self, limit_bytes: int | None, work: Callable[[], Replay] | None = None) -> Replay:
        """Return the replay under a limit, which ends where memory runs out; for each limit it runs once.

        Where it has to run, `work` may do so: a replay that is watched.
        """
        if limit_bytes not in self._by_limit:
            self._by_limit[limit_bytes] = self._recall(limit_bytes, work or (lambda: self._run(limit_bytes)))
        return self._by_limit[limit_bytes]

    def _run(self, limit_bytes: int | None) -> Replay:
        """Return the replay under a limit."""
        allocator = CachingAllocator(self._settings, limit_bytes=limit_bytes, descending_addresses=self._descending)
        failure = carry_out(self._make_requests(), allocator)
        return Replay(
            peak_allocated_bytes=allocator.max_allocated_bytes,
            peak_reserved_bytes=allocator.max_reserved_bytes,
            failure=failure,
        )
