"""The sizes of a tape that was not traced, from tapes of other batch sizes, sequence lengths or ranks.

Where the same operations run, only the sizes of blocks differ, and they are polynomials of the value that changes:
straight lines mostly, parabolas where attention is quadratic. So two or three tapes that agree in all events but for
their sizes give the sizes at any other value. Kernels that round or split their work make it an estimate: it says where
to look, never what is true.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from inspector.extrapolate.template import Sizes, TapeTemplate

__all__ = ["DEGREE", "SizeInterpolator", "interpolate"]

DEGREE = 2


def interpolate(values: Sequence[int], sizes: Sequence[int], value: int) -> float:
    """Return where the polynomial through `sizes` at `values` is at `value` (Lagrange)."""
    return sum(weight * size for weight, size in zip(_weights(values, value), sizes, strict=True))


def _weights(values: Sequence[int], value: int) -> list[float]:
    """Return what each of `values` counts for at `value`."""
    return [math.prod((value - b) / (a - b) for b in values if b != a) for a in values]


class SizeInterpolator:
    """The sizes of traced tapes, by the value that they differ in."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[TapeTemplate, Sizes]] = {}
        # Tapes of one shape have one number: comparing shapes takes longer, and searches ask thousands of times.
        self._shapes: dict[Hashable, int] = {}
        self._shape_of: dict[int, int] = {}

    def add(self, value: int, template: TapeTemplate, sizes: Sizes) -> None:
        """Keep the tape of a value."""
        self._known[value] = template, sizes
        self._shape_of[value] = self._shapes.setdefault(template.shape, len(self._shapes))

    def estimate(self, value: int) -> tuple[TapeTemplate, Sizes] | None:
        """Return the tape of `value` from the nearest ones that are known, None where no two of them agree."""
        nearest = sorted(self._known, key=lambda known: abs(math.log(known / value)))
        for reference in nearest:
            shape = self._shape_of[reference]
            same_shape = [known for known in nearest if self._shape_of[known] == shape][: DEGREE + 1]
            if len(same_shape) > 1:
                return self._known[reference][0], self._interpolate_sizes(same_shape, value)
        return None

    def _interpolate_sizes(self, values: Sequence[int], value: int) -> Sizes:
        """Lay a polynomial through the sizes of each block."""
        sizes = np.stack([self._known[known][1] for known in values])
        estimated = np.rint(np.array(_weights(values, value)) @ sizes).astype(np.int64)
        # A size of 0 takes no block, which would be another shape.
        return np.where((sizes == sizes[0]).all(axis=0), sizes[0], np.maximum(estimated, 1))
