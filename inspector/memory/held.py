"""Where everything lies at a moment of a replay: segments, and what lives in them or is free.

`WatchedAllocator` remembers what its last request touched, so that whoever stands between a tape and its requests
(`memory.replay`) can say of each event where its block is. `HeldMemory` follows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from inspector.memory.allocator.caching import Block, CachingAllocator, OutOfMemory
from inspector.memory.allocator.pools import SegmentChange
from inspector.memory.recording import Recording
from inspector.records.tape import Event, EventKind

__all__ = ["HeldBlock", "HeldMemory", "HeldSegment", "Touched", "WatchedAllocator"]


class Touched(NamedTuple):
    """A block as it was handed out or taken back: where it lies, what it takes, and what was asked for."""

    address: int
    bytes: int
    requested_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBlock:
    """A stretch of a segment: a block with the event that made it, or a free one, where that is None."""

    address: int
    bytes: int
    requested_bytes: int = 0
    made_by: Event | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSegment:
    """A segment, or a stretch of an expandable one that memory is behind; its blocks fill it."""

    address: int
    bytes: int
    is_small: bool
    blocks: tuple[HeldBlock, ...]


class WatchedAllocator(CachingAllocator):
    """An allocator that remembers the last block that it handed out or took back, with its size at that time."""

    touched: Touched | None = None

    @classmethod
    def of(cls, recording: Recording) -> WatchedAllocator:
        """Return the allocator that a run is to be replayed through."""
        return cls(
            recording.settings, limit_bytes=recording.limit_bytes, descending_addresses=recording.descending_addresses
        )

    def allocate(self, requested_bytes: int) -> Block | OutOfMemory:
        """Hand out a block and remember it."""
        block = super().allocate(requested_bytes)
        if isinstance(block, Block):
            self.touched = Touched(block.address, block.size, block.requested_bytes)
        return block

    def free(self, block: Block) -> None:
        """Remember a block as it is, before it merges, and take it back."""
        self.touched = Touched(block.address, block.size, block.requested_bytes)
        super().free(block)


class HeldMemory:
    """What an allocator holds, kept up event by event."""

    def __init__(self, allocator: CachingAllocator) -> None:
        self._allocator = allocator
        self._changes = allocator.log_segments()
        self._live: dict[int, tuple[Event, Touched]] = {}  # by address
        self._reserved: dict[int, tuple[int, bool]] = {}  # by address: bytes that came from the device, small pool

    def follow(self, event: Event) -> tuple[Sequence[SegmentChange], Touched | None]:
        """Take in what an event did and return it; None where it touched no block."""
        changes = self._take_in_changes()
        assert isinstance(self._allocator, WatchedAllocator), "another one does not say which block it touched"
        touched, self._allocator.touched = self._allocator.touched, None
        if touched is not None and event.kind is EventKind.ALLOCATE:
            self._live[touched.address] = event, touched
        elif touched is not None:
            del self._live[touched.address]
        return changes, touched

    def jump(self, live: Iterable[tuple[Event, Block]]) -> None:
        """Take in all that happened since, after which these blocks live, each with the event that made it."""
        self._take_in_changes()
        self._live = {
            block.address: (event, Touched(block.address, block.size, block.requested_bytes)) for event, block in live
        }

    def list_segments(self) -> Iterator[HeldSegment]:
        """Yield what is reserved now, by address."""
        live = sorted(self._live)
        position = 0
        for address, size, is_small in self._join_pages():
            blocks, place = [], address
            while position < len(live) and live[position] < address + size:
                event, block = self._live[live[position]]
                if block.address > place:
                    blocks.append(HeldBlock(address=place, bytes=block.address - place))
                blocks.append(
                    HeldBlock(
                        address=block.address,
                        bytes=block.bytes,
                        requested_bytes=block.requested_bytes,
                        made_by=event,
                    )
                )
                place = block.address + block.bytes
                position += 1
            if place < address + size:
                blocks.append(HeldBlock(address=place, bytes=address + size - place))
            yield HeldSegment(address=address, bytes=size, is_small=is_small, blocks=tuple(blocks))

    def _take_in_changes(self) -> Sequence[SegmentChange]:
        """Take in what came from the device and went back, and return it."""
        if not self._changes:
            return ()
        changes = tuple(self._changes)
        self._changes.clear()
        for change in changes:
            if change.is_taken:
                self._reserved[change.address] = change.bytes, change.is_small
            else:
                self._give_back(change)
        return changes

    def _give_back(self, change: SegmentChange) -> None:
        """Forget memory that went back: a whole segment, or pages out of what was mapped at several times."""
        end = change.address + change.bytes
        for address, (size, is_small) in list(self._reserved.items()):
            if address >= end or address + size <= change.address:
                continue
            del self._reserved[address]
            if address < change.address:
                self._reserved[address] = change.address - address, is_small
            if address + size > end:
                self._reserved[end] = address + size - end, is_small

    def _join_pages(self) -> list[tuple[int, int, bool]]:
        """Return what is reserved by address; pages of an expandable segment beside each other are one stretch."""
        is_expandable = self._allocator.settings.expandable_segments
        joined: list[tuple[int, int, bool]] = []
        for address, (size, is_small) in sorted(self._reserved.items()):
            if is_expandable and joined and joined[-1][0] + joined[-1][1] == address and joined[-1][2] is is_small:
                joined[-1] = joined[-1][0], joined[-1][1] + size, is_small
            else:
                joined.append((address, size, is_small))
        return joined
