"""The values that a search looks at, by number: every one, or so few that neighbours lie less than 1 % apart."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Grid"]

# From twice as many units on, neighbours are two units apart, then four, and so on.
_FINE = 128


@dataclass(frozen=True, slots=True)
class Grid:
    """Values from 1 to `most`, numbered from 1 on; the last number is that of `most` itself.

    Without a `unit` it has every value. With one it has multiples of it, the first 256 of them and then ever fewer.
    """

    most: int
    unit: int | None = None

    @property
    def last(self) -> int:
        """Return the number of `most`."""
        below = self.number(self.most - 1)
        return below + 1

    def value(self, number: int) -> int:
        """Return the value of a number, `most` beyond the last one."""
        if self.unit is None:
            return min(number, self.most)
        doublings = max(number // _FINE - 1, 0)
        return min((number - _FINE * doublings) * self.unit << doublings, self.most)

    def number(self, value: int) -> int:
        """Return the number of the largest value of the grid that is not above `value`, 0 where there is none.

        `most` counts as what it would be if the grid went on.
        """
        if self.unit is None:
            return value
        doublings = max((value // self.unit).bit_length() - _FINE.bit_length(), 0)
        return (value // self.unit >> doublings) + _FINE * doublings
