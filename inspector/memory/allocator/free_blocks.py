"""The free blocks of a pool in their order, of which some steps have hundreds of thousands.

One sorted list is the quickest until it is long; then each block that is entered or taken out moves half of the list.
So it is cut into chunks where it grows, and a chunk goes where it is empty.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from inspector.memory.allocator.pools import Block

__all__ = ["MOST_IN_A_CHUNK", "FreeBlocks"]

_Entry: TypeAlias = "tuple[int, int, Block]"
MOST_IN_A_CHUNK = 2048


class FreeBlocks:
    """Blocks by size, then address, as torch's std::set has them; no two share an address.

    `chunks` are their entries (size, address, block), sorted within a chunk and from chunk to chunk. `bounds` has one
    number less: what is before `bounds[n]` is in the first n + 1 chunks, and all else behind. None is empty but an only
    one.
    """

    __slots__ = ("bounds", "chunks")

    def __init__(self) -> None:
        self.bounds: list[tuple[int, int]] = []
        self.chunks: list[list[_Entry]] = [[]]

    def __iter__(self) -> Iterator[_Entry]:
        """Yield the entries in order; none may be entered or taken out meanwhile."""
        return itertools.chain.from_iterable(self.chunks)

    def add(self, entry: _Entry) -> None:
        """Enter a block."""
        chunk = self.chunks[bisect_right(self.bounds, entry)]
        insort(chunk, entry)
        if len(chunk) > MOST_IN_A_CHUNK:
            self.split(chunk)

    def remove(self, size: int, address: int) -> None:
        """Take out the block of a size at an address."""
        number = bisect_right(self.bounds, (size, address))
        chunk = self.chunks[number]
        del chunk[bisect_left(chunk, (size, address))]
        if not chunk:
            self.drop(number)

    def find(self, size: int) -> tuple[int, int] | None:
        """Return the chunk of the smallest block of at least a size, and its place there; None where there is none."""
        number = bisect_right(self.bounds, (size,))
        index = bisect_left(self.chunks[number], (size,))
        if index < len(self.chunks[number]):
            return number, index
        return (number + 1, 0) if number + 1 < len(self.chunks) else None

    def get_last(self) -> _Entry | None:
        """Return the largest block, None where there is none."""
        return self.chunks[-1][-1] if self.chunks[-1] else None

    def split(self, chunk: list[_Entry]) -> None:
        """Cut a chunk that has grown into two."""
        half = len(chunk) // 2
        behind = chunk[half:]
        del chunk[half:]
        number = bisect_right(self.bounds, chunk[0])
        self.bounds.insert(number, behind[0][:2])
        self.chunks.insert(number + 1, behind)

    def drop(self, number: int) -> None:
        """Take out a chunk that has become empty, where there are others."""
        if self.bounds:
            del self.chunks[number]
            del self.bounds[max(number - 1, 0)]
