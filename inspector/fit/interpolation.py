"""The tape of a size that was not traced, foretold from the tapes of sizes that were.

Where the same operations run, only the sizes of blocks differ, and they are polynomials of the batch, the row or the
rank: straight lines mostly, parabolas where attention is quadratic. So two or three tapes that agree in all events but
for their sizes give the tape of any other size. Kernels that round or split their work make it an estimate: it says
where to look, never what is true.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from inspector.training_records import Event

__all__ = ["DEGREE", "TapesBySize", "curve"]

DEGREE = 2


def curve(values: Sequence[int], sizes: Sequence[int], value: int) -> float:
    """Return where the polynomial through `sizes` at `values` is at `value` (Lagrange)."""
    return sum(weight * size for weight, size in zip(_weights(values, value), sizes, strict=True))


def _weights(values: Sequence[int], value: int) -> list[float]:
    """Return what each of `values` counts for at `value`."""
    return [math.prod((value - b) / (a - b) for b in values if b != a) for a in values]


class TapesBySize:
    """Traced tapes by the value that they differ in."""

    def __init__(self) -> None:
        self._tapes: dict[int, Sequence[Event]] = {}
        self._shapes: dict[int, int] = {}

    def add(self, value: int, tape: Sequence[Event]) -> None:
        """Keep the tape of a value."""
        self._tapes[value] = tape
        self._shapes[value] = hash(tuple((event.kind, event.block) for event in tape))

    def at(self, value: int) -> list[Event] | None:
        """Return the tape of `value` as the nearest tapes foretell it, None where no two of them agree."""
        alike = self._alike(value)
        return self._foretold(alike, value) if alike else None

    def like(self, value: int) -> int:
        """Return the value whose tape has the events of the one that is foretold for `value`."""
        return self._alike(value)[0]

    def _alike(self, value: int) -> list[int]:
        """Return the values next to `value` whose tapes differ in nothing but sizes; empty where no two do."""
        nearest = sorted(self._tapes, key=lambda known: abs(math.log(known / value)))
        for reference in nearest:
            alike = [known for known in nearest if self._shapes[known] == self._shapes[reference]][: DEGREE + 1]
            if len(alike) > 1:
                return alike
        return []

    def _foretold(self, known: Sequence[int], value: int) -> list[Event]:
        """Lay a polynomial through the sizes of each event."""
        weights = _weights(known, value)
        first, *others = (self._tapes[each] for each in known)
        sizes: dict[tuple[int, ...], int] = {}
        tape = []
        for index, event in enumerate(first):
            traced = (event.bytes, *(other[index].bytes for other in others))
            if traced not in sizes:
                foretold = sum(weight * size for weight, size in zip(weights, traced, strict=True))
                # A size of 0 takes no block, which would be another shape.
                sizes[traced] = event.bytes if len(set(traced)) == 1 else max(round(foretold), 1)
            size = sizes[traced]
            tape.append(event if size == event.bytes else dataclasses.replace(event, bytes=size))
        return tape
