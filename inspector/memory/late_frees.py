"""The latest that blocks can come back: a tape with the frees that depend on time where they are at the latest.

A tape has them at the earliest. Where a block is used on another stream than its own (`record_stream`), it is handed
out again once that stream is done with it, which CUDA is asked about at each request (CUDACachingAllocator.cpp,
`process_events`): at the latest when the host waits for the card, as Trainer does after each micro-batch to read the
loss. FSDP1 waits before, so that no more than two units are gathered ahead (`_limiter_utils.py`). DDP's first buckets
end with the first collective after NCCL's watchdog, which looks every 100 ms, has seen the first step end: at the
latest when the second one's gradients were reduced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from inspector.records.tape import Category, Event, EventKind, Phase

__all__ = ["USED_ELSEWHERE", "free_late"]

# What the end of a block says that is used on another stream.
USED_ELSEWHERE = "record_stream"
# Pieces of two units, each of which has up to two: what it is gathered from in low precision, and itself.
_MOST_AHEAD = 4


def free_late(tape: Iterable[Event]) -> list[Event] | None:
    """Return a tape with each free that depends on time at its latest, None where none does."""
    moved: list[Event] = []
    late = list(_free_late(tape, moved))
    return late if moved else None


def _free_late(tape: Iterable[Event], moved: list[Event]) -> Iterator[Event]:
    """Yield the events in their order, and add those that moved to `moved`."""
    held: deque[Event] = deque()
    buckets: deque[Event] = deque()
    before = (0, Phase.LOAD)
    of_load: set[int] = set()
    for event in tape:
        now = (event.step, event.phase)
        if now != before and event.phase in (Phase.FORWARD, Phase.OPTIMIZER):
            yield from _release(held, 0)
        if now != before and event.phase is Phase.OPTIMIZER:
            yield from _release(buckets, 0)
        before = now
        if event.kind is EventKind.ALLOCATE and event.category is Category.COMMUNICATION and event.phase is Phase.LOAD:
            of_load.add(event.block)
        if event.kind is EventKind.ALLOCATE and event.category is Category.GATHERED:
            yield from _release(held, _MOST_AHEAD)
        if event.kind is EventKind.FREE and event.op == USED_ELSEWHERE:
            held.append(event)
            moved.append(event)
        elif event.kind is EventKind.FREE and event.block in of_load and event.step == 2:
            buckets.append(event)
            moved.append(event)
        else:
            yield event
    yield from held
    yield from buckets


def _release(held: deque[Event], most_gathered: int) -> Iterator[Event]:
    """Yield the frees that are held back, the oldest first, until so many gathered pieces are left; all for none."""
    while held and (not most_gathered or sum(item.category is Category.GATHERED for item in held) >= most_gathered):
        yield held.popleft()
