"""The pools of the caching allocator: where blocks lie, how they split and merge, when segments come and go.

The device counts what is reserved; a pool holds the blocks of one size class in plain segments, one of
`allocator.expandable` in expandable ones. What is modelled, from which sources, and how it was verified stands in
`inspector.memory.allocator.caching`; the line numbers in square brackets are those of CUDACachingAllocator.cpp cited in
shared/cuda-memory-facts.md, section 1.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import NamedTuple

from inspector.memory.allocator.free_blocks import MOST_IN_A_CHUNK, FreeBlocks
from inspector.memory.allocator.settings import (
    MIN_BLOCK_BYTES,
    SMALL_BYTES,
    UNLIMITED,
    AllocatorSettings,
)

__all__ = ["Block", "Device", "Pool", "SegmentChange"]

# Where simulated addresses start, how segments are aligned, and how far a range goes on a device without an end.
_FIRST_ADDRESS = 1 << 40
_LAST_ADDRESS = 2**62
_ALIGNMENT = 2 << 20


class Block:
    """A stretch of a segment, linked to its neighbours: handed out, free, or not backed by memory (`mapped` is false).

    `size` is what the block takes, `requested_bytes` what was asked for when it was handed out.
    """

    __slots__ = ("address", "allocated", "mapped", "next", "pool", "prev", "requested_bytes", "size")

    def __init__(self, pool: Pool, address: int, size: int, *, mapped: bool = True) -> None:
        self.pool = pool
        self.address = address
        self.size = size
        self.mapped = mapped
        self.allocated = False
        self.requested_bytes = 0
        self.prev: Block | None = None
        self.next: Block | None = None

    def __repr__(self) -> str:
        state = "allocated" if self.allocated else "free" if self.mapped else "unmapped"
        return f"<Block {self.address:#x} of {self.size} bytes, {state}>"


class SegmentChange(NamedTuple):
    """Memory that came from the device or went back: a segment, or pages of an expandable one."""

    is_taken: bool
    address: int
    bytes: int
    is_small: bool


class Device:
    """The GPU: its memory, what the allocator has taken of it, and the next address.

    `changes` are those of its segments in their order, where somebody asked for them by making it a list.
    """

    __slots__ = (
        "changes",
        "descending",
        "limit_bytes",
        "max_reserved_bytes",
        "next_address",
        "refused_bytes",
        "reserved_bytes",
    )

    def __init__(self, limit_bytes: int | None, *, descending: bool) -> None:
        self.descending = descending
        self.limit_bytes = UNLIMITED if limit_bytes is None else limit_bytes
        self.reserved_bytes = 0
        self.max_reserved_bytes = 0
        self.refused_bytes = 0
        self.next_address = _LAST_ADDRESS if descending else _FIRST_ADDRESS
        self.changes: list[SegmentChange] | None = None

    def take(self, size: int) -> bool:
        """Reserve memory; return whether there was enough."""
        if self.reserved_bytes + size > self.limit_bytes:
            self.refused_bytes = size
            return False
        self.reserved_bytes += size
        self.max_reserved_bytes = max(self.max_reserved_bytes, self.reserved_bytes)
        return True

    def give_back(self, size: int) -> None:
        """Release memory."""
        self.reserved_bytes -= size

    def note(self, address: int, size: int, *, is_taken: bool, is_small: bool) -> None:
        """Write down where memory came or went, where somebody asked for it."""
        if self.changes is not None:
            self.changes.append(SegmentChange(is_taken=is_taken, address=address, bytes=size, is_small=is_small))

    def addresses(self, size: int, alignment: int = _ALIGNMENT) -> int:
        """Return the start of `size` fresh addresses, a multiple of `alignment`."""
        if self.descending:
            self.next_address = (self.next_address - size) // alignment * alignment
            return self.next_address
        address = -(-self.next_address // alignment) * alignment
        self.next_address = address + size
        return address


class Pool:
    """Blocks of one size class in segments of their own [CUDACachingAllocator.cpp:2512-2740]."""

    __slots__ = (
        "device",
        "free_blocks",
        "least_rest_bytes",
        "max_split_bytes",
        "settings",
        "small",
        "split_below_bytes",
    )

    # Whether a block that is larger may be taken before a smaller one.
    compares_reach = False

    def __init__(self, device: Device, settings: AllocatorSettings, *, small: bool) -> None:
        self.device = device
        self.settings = settings
        self.small = small
        self.max_split_bytes = settings.max_split_bytes
        # What is left of a block that is handed out is a block of its own from so much on, and where less is asked for
        # than the latter [:2540].
        self.least_rest_bytes = MIN_BLOCK_BYTES if small else SMALL_BYTES + 1
        self.split_below_bytes = UNLIMITED if small else settings.max_split_bytes
        self.free_blocks = FreeBlocks()

    def hand_out(self, size: int, segment: Block | None = None) -> Block | None:
        """Take the best free block for `size`, or a new `segment`, and keep what it has too much [:2512, :2560].

        Only one candidate is looked at; None where it does not do. This and `take_back` are where replays spend their
        time, and call nothing that is called each time.
        """
        free_blocks, block = self.free_blocks, segment
        bounds, chunks = free_blocks.bounds, free_blocks.chunks
        if block is None:
            number = bisect_right(bounds, (size,)) if bounds else 0
            chunk = chunks[number]
            index = bisect_left(chunk, (size,))
            if index == len(chunk):
                number += 1
                if number == len(chunks):
                    return None
                chunk, index = chunks[number], 0
            if self.compares_reach and (index + 1 < len(chunk) or bounds):
                number, index = self.find_nearest(number, index)
                chunk = chunks[number]
            block = chunk[index][2]
            if self.max_split_bytes != UNLIMITED and self.refuses(block, size):
                return None
            del chunk[index]
            if not chunk:
                free_blocks.drop(number)
        rest_bytes = block.size - size
        if rest_bytes >= self.least_rest_bytes and size < self.split_below_bytes:
            following, address = block.next, block.address + size
            rest = Block(self, address, rest_bytes)
            rest.prev, rest.next = block, following
            if following is not None:
                following.prev = rest
            block.size, block.next = size, rest
            entry = (rest_bytes, address, rest)
            chunk = chunks[bisect_right(bounds, entry)] if bounds else chunks[0]
            insort(chunk, entry)
            if len(chunk) > MOST_IN_A_CHUNK:
                free_blocks.split(chunk)
        return block

    def take_back(self, block: Block) -> None:
        """Join a block that was handed out with its free neighbours, and enter it into the set [:2474]."""
        free_blocks, left, right = self.free_blocks, block.prev, block.next
        bounds, chunks = free_blocks.bounds, free_blocks.chunks
        if left is not None and not left.allocated and left.mapped:
            key = (left.size, left.address)
            number = bisect_right(bounds, key) if bounds else 0
            chunk = chunks[number]
            del chunk[bisect_left(chunk, key)]
            if not chunk:
                free_blocks.drop(number)
            block.address = left.address
            block.size += left.size
            block.prev = before = left.prev
            if before is not None:
                before.next = block
        if right is not None and not right.allocated and right.mapped:
            key = (right.size, right.address)
            number = bisect_right(bounds, key) if bounds else 0
            chunk = chunks[number]
            del chunk[bisect_left(chunk, key)]
            if not chunk:
                free_blocks.drop(number)
            block.size += right.size
            block.next = after = right.next
            if after is not None:
                after.prev = block
        entry = (block.size, block.address, block)
        chunk = chunks[bisect_right(bounds, entry)] if bounds else chunks[0]
        insort(chunk, entry)
        if len(chunk) > MOST_IN_A_CHUNK:
            free_blocks.split(chunk)

    def find_nearest(self, number: int, index: int) -> tuple[int, int]:
        """Return which free block to take where that at this place is the smallest that does."""
        return number, index

    def refuses(self, block: Block, size: int) -> bool:
        """Return whether a free block is not handed out for `size`, where large ones are not split [:2560]."""
        limit = self.max_split_bytes
        if size < limit:
            return block.size >= limit
        return block.size >= size + self.settings.max_non_split_rounding_bytes

    def grow(self, size: int) -> Block | None:
        """Return a new segment for `size` as one block outside the set, None if the device has too little left."""
        segment_bytes = self.settings.segment_size(size)
        if not self.device.take(segment_bytes):
            return None
        block = Block(self, self.device.addresses(segment_bytes), segment_bytes)
        self.device.note(block.address, segment_bytes, is_taken=True, is_small=self.small)
        return block

    def release(self) -> None:
        """Give every segment that is one free block back to the device."""
        for _, _, block in list(self.free_blocks):
            if block.prev is None and block.next is None:
                self._release(block)

    def release_oversize(self, size: int) -> bool:
        """Release blocks above max_split_size that together make room for `size`; return whether that succeeded.

        One block that is large enough goes alone, otherwise the largest ones go until the sum suffices. Such blocks are
        never split, so each is a whole segment.
        """
        limit = self.settings.max_split_bytes
        if limit == UNLIMITED:
            return False
        wanted = max(size, limit)
        place = self.free_blocks.find(wanted)
        if place is not None:
            self._release(self.free_blocks.chunks[place[0]][place[1]][2])
            return True
        released = 0
        while released < wanted and (last := self.free_blocks.get_last()) is not None and last[0] >= limit:
            released += last[0]
            self._release(last[2])
        return released >= wanted

    def _release(self, segment: Block) -> None:
        """Take a segment that is one free block out of the set and return it to the device."""
        self.free_blocks.remove(segment.size, segment.address)
        self._give_back(segment)

    def _give_back(self, segment: Block) -> None:
        """Return a segment that is one free block to the device."""
        self.device.give_back(segment.size)
        self.device.note(segment.address, segment.size, is_taken=False, is_small=self.small)
