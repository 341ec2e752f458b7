"""Numbers by block, of tapes with millions of blocks: eight bytes each, where a dictionary takes 150.

Blocks of a tape count from 0 on. Those of a tape that somebody made otherwise, far apart, are kept in a dictionary.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping

__all__ = ["BlockMap"]

_NONE = -1
# A block may be so many beyond all before it.
_FARTHEST = 2**16


class BlockMap(Mapping[int, int]):
    """A mapping from blocks to numbers of at least 0."""

    __slots__ = ("_far", "_near")

    def __init__(self) -> None:
        self._near = array("q")
        self._far: dict[int, int] = {}

    def __setitem__(self, block: int, number: int) -> None:
        """Set the number of a block."""
        near = self._near
        beyond = block - len(near)
        if not beyond:  # as blocks of a tape come
            near.append(number)
            return
        if 0 < beyond < _FARTHEST:
            near.extend([_NONE] * (beyond + 1))
        if 0 <= block < len(near):
            near[block] = number
        else:
            self._far[block] = number

    def __getitem__(self, block: int) -> int:
        """Return the number of a block; KeyError where it has none."""
        number = self._near[block] if 0 <= block < len(self._near) else self._far[block]
        if number == _NONE:
            raise KeyError(block)
        return number

    def __contains__(self, block: object) -> bool:
        """Tell whether a block has a number, without the error that looking for none costs."""
        if isinstance(block, int) and 0 <= block < len(self._near):
            return self._near[block] != _NONE
        return block in self._far

    def __iter__(self) -> Iterator[int]:
        """Yield the blocks."""
        yield from (block for block, number in enumerate(self._near) if number != _NONE)
        yield from self._far

    def __len__(self) -> int:
        """Return how many blocks have a number."""
        return sum(1 for _ in self)
