"""What of a tape the allocator sees, replayed for one answer: does it run, and what does it reserve.

`memory.timeline` tells everything about a tape; this takes half the time and tells whether memory runs out. A request
is a block and its size: 0 bytes end the block (one that never took any memory is passed over), and block -1 gives back
what is cached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from inspector.memory.allocator.caching import Block, CachingAllocator, OutOfMemory
from inspector.memory.allocator.settings import AllocatorSettings
from inspector.records.tape import Event, EventKind

__all__ = ["Replay", "Replays", "Requests"]

Requests = Iterable[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The peaks of a replay, and the request that failed under its limit, which ended it."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    failure: OutOfMemory | None = None


class Replays:
    """The replays of one step under the rules of one allocator. `wanted` makes its requests anew."""

    def __init__(
        self,
        wanted: Callable[[], Requests],
        settings: AllocatorSettings | None = None,
        *,
        descending_addresses: bool = False,
    ) -> None:
        self._wanted = wanted
        self._settings = settings
        self._descending = descending_addresses
        self._made: dict[int | None, Replay] = {}

    @classmethod
    def of(
        cls, tape: Sequence[Event], settings: AllocatorSettings | None = None, *, descending_addresses: bool = False
    ) -> Replays:
        """Return the replays of a tape."""
        return cls(lambda: _requests(tape), settings, descending_addresses=descending_addresses)

    @property
    def unlimited(self) -> Replay:
        """Return the replay on a device without an end."""
        return self.under(None)

    def run_under(self, limit_bytes: int) -> bool:
        """Tell whether the step runs under a limit: it does where it reserves no more without one."""
        unlimited = self._made.get(None)
        if unlimited is not None and unlimited.peak_reserved_bytes <= limit_bytes:
            return True
        return self.under(limit_bytes).failure is None

    def under(self, limit_bytes: int | None) -> Replay:
        """Return the replay under a limit, which ends where memory runs out; each is made once."""
        if limit_bytes not in self._made:
            self._made[limit_bytes] = self._replay(limit_bytes)
        return self._made[limit_bytes]

    def _replay(self, limit_bytes: int | None) -> Replay:
        """Run the requests through the allocator."""
        allocator = CachingAllocator(self._settings, limit_bytes=limit_bytes, descending_addresses=self._descending)
        allocate, free = allocator.allocate, allocator.free
        live: dict[int, Block] = {}
        failure = None
        for block, size in self._wanted():
            if size:
                made = allocate(size)
                if isinstance(made, OutOfMemory):
                    failure = made
                    break
                live[block] = made
                continue
            ended = live.pop(block, None)
            if ended is not None:
                free(ended)
            elif block == -1:
                allocator.empty_cache()
        return Replay(
            peak_allocated_bytes=allocator.max_allocated_bytes,
            peak_reserved_bytes=allocator.max_reserved_bytes,
            failure=failure,
        )


def _requests(tape: Sequence[Event]) -> Requests:
    """Yield the requests of a tape."""
    for event in tape:
        if event.kind is not EventKind.RETAG:
            yield event.block, event.bytes if event.kind is EventKind.ALLOCATE else 0
