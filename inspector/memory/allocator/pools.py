"""The pools of the caching allocator: where blocks lie, how they split and merge, when segments come and go.

The device counts what is reserved; a pool holds the blocks of one size class, in plain segments or in expandable ones.
What is modelled, from which sources, and how it was verified stands in `inspector.memory.allocator.caching`; the line
numbers in square brackets are those of CUDACachingAllocator.cpp cited in shared/cuda-memory-facts.md, section 1.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

from inspector.memory.allocator.settings import (
    MIN_BLOCK_BYTES,
    SMALL_BYTES,
    SMALL_SEGMENT_BYTES,
    UNLIMITED,
    AllocatorSettings,
)

__all__ = ["Block", "Device", "ExpandablePool", "Pool", "SegmentChange"]

# Where simulated addresses start, how segments are aligned, and how far a range goes on a device without an end.
_FIRST_ADDRESS = 1 << 40
_LAST_ADDRESS = 2**62
_ALIGNMENT = 2 << 20
_ENDLESS_BYTES = 1 << 56


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
        # Sorted by size, then address, as torch's std::set is; no two blocks share an address.
        self.free_blocks: list[tuple[int, int, Block]] = []

    def hand_out(self, size: int, segment: Block | None = None) -> Block | None:
        """Take the best free block for `size`, or a new `segment`, and keep what it has too much [:2512, :2560].

        Only one candidate is looked at; None where it does not do. This and `take_back` are where replays spend their
        time, and call nothing that is called each time.
        """
        free_blocks, block = self.free_blocks, segment
        if block is None:
            index = bisect_left(free_blocks, (size,))
            if index == len(free_blocks):
                return None
            if self.compares_reach and index + 1 < len(free_blocks):
                index = self.find_nearest(index)
            block = free_blocks[index][2]
            if self.max_split_bytes != UNLIMITED and self.refuses(block, size):
                return None
            del free_blocks[index]
        rest_bytes = block.size - size
        if rest_bytes >= self.least_rest_bytes and size < self.split_below_bytes:
            following, address = block.next, block.address + size
            rest = Block(self, address, rest_bytes)
            rest.prev, rest.next = block, following
            if following is not None:
                following.prev = rest
            block.size, block.next = size, rest
            insort(free_blocks, (rest_bytes, address, rest))
        return block

    def take_back(self, block: Block) -> None:
        """Join a block that was handed out with its free neighbours, and enter it into the set [:2474]."""
        free_blocks, left, right = self.free_blocks, block.prev, block.next
        if left is not None and not left.allocated and left.mapped:
            del free_blocks[bisect_left(free_blocks, (left.size, left.address))]
            block.address = left.address
            block.size += left.size
            block.prev = before = left.prev
            if before is not None:
                before.next = block
        if right is not None and not right.allocated and right.mapped:
            del free_blocks[bisect_left(free_blocks, (right.size, right.address))]
            block.size += right.size
            block.next = after = right.next
            if after is not None:
                after.prev = block
        insort(free_blocks, (block.size, block.address, block))

    def find_nearest(self, index: int) -> int:
        """Return which free block to take where that at `index` is the smallest that does."""
        return index

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
        kept = []
        for entry in self.free_blocks:
            if entry[2].prev is None and entry[2].next is None:
                self._give_back(entry[2])
            else:
                kept.append(entry)
        self.free_blocks = kept

    def release_oversize(self, size: int) -> bool:
        """Release blocks above max_split_size that together make room for `size`; return whether that succeeded.

        One block that is large enough goes alone, otherwise the largest ones go until the sum suffices. Such blocks are
        never split, so each is a whole segment.
        """
        limit = self.settings.max_split_bytes
        if limit == UNLIMITED:
            return False
        wanted = max(size, limit)
        index = bisect_left(self.free_blocks, (wanted,))
        if index < len(self.free_blocks):
            self._give_back(self.free_blocks.pop(index)[2])
            return True
        released = 0
        while released < wanted and self.free_blocks and self.free_blocks[-1][0] >= limit:
            released += self.free_blocks[-1][0]
            self._give_back(self.free_blocks.pop()[2])
        return released >= wanted

    def _give_back(self, segment: Block) -> None:
        """Return a segment that is one free block to the device."""
        self.device.give_back(segment.size)
        self.device.note(segment.address, segment.size, is_taken=False, is_small=self.small)


class ExpandablePool(Pool):
    """Blocks of one size class in a range of addresses that is mapped page by page [:358-640, 2225-2345].

    A range covers 1.125 times the device's memory; a second one is needed only where releases have torn holes into it.
    """

    __slots__ = ("page_bytes", "unmapped")

    compares_reach = True

    def __init__(self, device: Device, settings: AllocatorSettings, *, small: bool) -> None:
        super().__init__(device, settings, small=small)
        self.least_rest_bytes, self.split_below_bytes = MIN_BLOCK_BYTES, UNLIMITED  # any rest that is a block at all
        self.page_bytes = SMALL_SEGMENT_BYTES if small else settings.large_segment_bytes
        # Stretches without memory behind them, by address; ranges start at multiples of a page, so these do, too.
        self.unmapped: list[tuple[int, Block]] = []

    def _add(self, block: Block) -> None:
        """Enter a block into the set of its kind: free blocks by size, unmapped ones by address."""
        if block.mapped:
            insort(self.free_blocks, (block.size, block.address, block))
        else:
            insort(self.unmapped, (block.address, block))

    def _remove(self, block: Block) -> None:
        """Take a block out of the set of its kind."""
        if block.mapped:
            del self.free_blocks[bisect_left(self.free_blocks, (block.size, block.address))]
        else:
            del self.unmapped[bisect_left(self.unmapped, (block.address,))]

    def _cut(self, block: Block, size: int, *, mapped: bool = True) -> Block:
        """Shorten a block that is in no set to `size` and return the rest as its right neighbour."""
        rest = Block(self, block.address + size, block.size - size, mapped=mapped)
        block.size = size
        rest.prev, rest.next = block, block.next
        if rest.next is not None:
            rest.next.prev = rest
        block.next = rest
        return rest

    def _merge(self, block: Block) -> None:
        """Join a block that is in no set with the free neighbours of its kind [:2474]."""
        left = block.prev
        if left is not None and not left.allocated and left.mapped is block.mapped:
            self._remove(left)
            block.address = left.address
            block.size += left.size
            block.prev = left.prev
            if block.prev is not None:
                block.prev.next = block
        right = block.next
        if right is not None and not right.allocated and right.mapped is block.mapped:
            self._remove(right)
            block.size += right.size
            block.next = right.next
            if block.next is not None:
                block.next.prev = block

    def find_nearest(self, index: int) -> int:
        """Return which free block to take: larger ones follow as long as they could grow to less."""
        blocks = self.free_blocks
        while index + 1 < len(blocks) and _reach(blocks[index + 1][2]) < _reach(blocks[index][2]):
            index += 1
        return index

    def grow(self, size: int) -> Block | None:
        """Map pages until a block holds `size`, in the lowest place with enough room, and take it out of the set."""
        block = self._place(size)
        if not block.mapped and not self._map(block, min(block.size, size)):
            return None
        while block.size < size:
            following = block.next
            # `_place` has seen enough room, so what follows a free block is unmapped. A request larger than a new range
            # is larger than the device and has failed above.
            assert following is not None
            if not self._map(following, min(size - block.size, following.size)):
                return None
            block = following
        self._remove(block)
        return block

    def release(self) -> None:
        """Unmap every page that lies wholly inside a free block."""
        for size, address, block in list(self.free_blocks):
            before = -address % self.page_bytes
            pages_bytes = (size - before) // self.page_bytes * self.page_bytes
            if pages_bytes <= 0:
                continue
            self._remove(block)
            if before:
                rest = self._cut(block, before)
                self._add(block)
                block = rest
            if block.size > pages_bytes:
                self._add(self._cut(block, pages_bytes))
            self.device.give_back(pages_bytes)
            self.device.note(block.address, pages_bytes, is_taken=False, is_small=self.small)
            block.mapped = False
            self._merge(block)
            if block.prev is not None or block.next is not None:
                self._add(block)
            # Else the range is empty: its addresses go back, too.

    def release_oversize(self, size: int) -> bool:
        """Release nothing: torch passes expandable segments over."""
        return False

    def _place(self, size: int) -> Block:
        """Return the first free or unmapped block from which on `size` bytes are not handed out."""
        for _, unmapped in self.unmapped:
            start = unmapped.prev if unmapped.prev is not None and not unmapped.prev.allocated else unmapped
            room = 0
            block: Block | None = start
            while room < size and block is not None and not block.allocated:
                room += block.size
                block = block.next
            if room >= size:
                return start
        return self._add_range()

    def _add_range(self) -> Block:
        """Reserve addresses and return them as one unmapped block."""
        limit = self.device.limit_bytes
        pages = max(-(-(limit + limit // 8) // self.page_bytes), 1)
        size = min(pages * self.page_bytes, _ENDLESS_BYTES)
        block = Block(self, self.device.addresses(size, self.page_bytes), size, mapped=False)
        self._add(block)
        return block

    def _map(self, block: Block, size: int) -> bool:
        """Back at least the first `size` bytes of an unmapped block and enter what becomes of it into the set."""
        pages_bytes = -(-size // self.page_bytes) * self.page_bytes
        if not self.device.take(pages_bytes):
            return False
        self.device.note(block.address, pages_bytes, is_taken=True, is_small=self.small)
        self._remove(block)
        block.mapped = True
        if pages_bytes < block.size:
            self._add(self._cut(block, pages_bytes, mapped=False))
        self._merge(block)
        self._add(block)
        return True


def _reach(block: Block) -> int:
    """Return the size that a free block could grow to: its own and that of the unmapped stretch after it."""
    following = block.next
    return block.size if following is None or following.mapped else block.size + following.size
