"""A pool of the caching allocator in expandable segments; what is modelled and verified: `allocator.caching`."""

from __future__ import annotations

from bisect import bisect_left, insort

from inspector.memory.allocator.pools import Block, Device, Pool
from inspector.memory.allocator.settings import MIN_BLOCK_BYTES, SMALL_SEGMENT_BYTES, UNLIMITED, AllocatorSettings

__all__ = ["ExpandablePool"]

_ENDLESS_BYTES = 1 << 56


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
            self.free_blocks.add((block.size, block.address, block))
        else:
            insort(self.unmapped, (block.address, block))

    def _remove(self, block: Block) -> None:
        """Take a block out of the set of its kind."""
        if block.mapped:
            self.free_blocks.remove(block.size, block.address)
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

    def find_nearest(self, number: int, index: int) -> tuple[int, int]:
        """Return which free block to take: larger ones follow as long as they could grow to less."""
        chunks = self.free_blocks.chunks
        reach = _reach(chunks[number][index][2])
        while True:
            following, place = (number, index + 1) if index + 1 < len(chunks[number]) else (number + 1, 0)
            if following == len(chunks) or (larger := _reach(chunks[following][place][2])) >= reach:
                break
            number, index, reach = following, place, larger
        return number, index

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
