"""The tape of a size that was not traced, foretold from the tapes of sizes that were.

Where the same operations run, only the sizes of blocks differ, and they are polynomials of the batch, the row or the
rank: straight lines mostly, parabolas where attention is quadratic. So two or three tapes that agree in all events but
for their sizes give the tape of any other size. Kernels that round or split their work make it an estimate: it says
where to look, never what is true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from inspector.extrapolate.sizes import Course, Sizes

__all__ = ["DEGREE", "TapesBySize", "curve"]

DEGREE = 2


def curve(values: Sequence[int], sizes: Sequence[int], value: int) -> float:
    """Return where the polynomial through `sizes` at `values` is at `value` (Lagrange)."""
    return sum(weight * size for weight, size in zip(_weights(values, value), sizes, strict=True))


def _weights(values: Sequence[int], value: int) -> list[float]:
    """Return what each of `values` counts for at `value`."""
    return [math.prod((value - b) / (a - b) for b in values if b != a) for a in values]


class TapesBySize:
    """The sizes of traced tapes, by the value that they differ in."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Course, Sizes]] = {}

    def add(self, value: int, course: Course, sizes: Sizes) -> None:
        """Keep the tape of a value."""
        self._known[value] = course, sizes

    def at(self, value: int) -> tuple[Course, Sizes] | None:
        """Return the tape of `value` as the nearest tapes foretell it, None where no two of them agree."""
        nearest = sorted(self._known, key=lambda known: abs(math.log(known / value)))
        for reference in nearest:
            shape = self._known[reference][0].shape
            alike = [known for known in nearest if self._known[known][0].shape == shape][: DEGREE + 1]
            if len(alike) > 1:
                return self._known[reference][0], self._foretold(alike, value)
        return None

    def _foretold(self, alike: Sequence[int], value: int) -> Sizes:
        """Lay a polynomial through the sizes of each block."""
        sizes = np.stack([self._known[each][1] for each in alike])
        foretold = np.rint(np.array(_weights(alike, value)) @ sizes).astype(np.int64)
        # A size of 0 takes no block, which would be another shape.
        return np.where((sizes == sizes[0]).all(axis=0), sizes[0], np.maximum(foretold, 1))
