"""The tape of a run whose layers scan, from tapes in which their loops over positions make few passes.

All tensors have the sizes of every position; what these tapes lack are passes of loops (`trace.scan_loops`). Two of
them that differ by one pass say what a pass adds, as two models that differ by one layer do (`extrapolate.layers`).
Only what a pass adds is repeated: a size that depends on how many there are, or a third tape that does not follow from
the two, says that passes are not alike, and the run is traced whole. tests/extrapolate holds such tapes against those
of runs that were traced with all passes, event by event.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.extrapolate.layers import LayerExtrapolation, LayerExtrapolator
from inspector.extrapolate.template import TapeTemplate
from inspector.records.tape import Event

__all__ = ["MOST_SCAN_EVENTS", "PositionExtrapolation", "extrapolate_positions"]

# Each takes some 100 bytes and 4 microseconds until a report is there.
MOST_SCAN_EVENTS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionExtrapolation:
    """How a tape with few passes becomes that with all: for each event the index of its source, and its block.

    A `LayerExtrapolation` that adds nothing to sizes and module paths, in a fifth of the room.
    """

    sources: NDArray[Any]  # four bytes each
    blocks: NDArray[Any]

    @classmethod
    def from_repetition(cls, found: LayerExtrapolation) -> PositionExtrapolation | None:
        """Return what a repetition is, None where it adds bytes, or something to layers other than its own."""
        if any(found.added_bytes) or any(found.renaming):
            return None
        return cls(sources=_narrow(found.sources), blocks=_narrow(found.blocks))

    @property
    def added_bytes(self) -> NDArray[np.int64]:
        """Return that nothing is added to a size, in one element."""
        return np.broadcast_to(np.int64(0), len(self.sources))

    @property
    def steps(self) -> None:
        """Return that an event belongs to the step of its source."""

    def name_modules(self, traced: Sequence[Event]) -> Iterator[str]:
        """Yield the module path of each event, that of its source."""
        numbers, paths = self.number_modules(traced)
        return map(paths.__getitem__, numbers)

    def number_modules(self, traced: Sequence[Event]) -> tuple[array[int], Sequence[str]]:
        """Return a number for the module path of each event, and the paths by their numbers."""
        known: dict[str, int] = {}
        numbers = np.array([known.setdefault(event.module, len(known)) for event in traced], dtype=np.int32)
        column = array("i")
        column.frombytes(numbers[self.sources].tobytes())
        return column, tuple(known)


def extrapolate_positions(tapes: Sequence[Sequence[Event]], left_out: int) -> TapeTemplate | None:
    """Return the run with the passes that the first tape lacks, None where the tapes do not say it.

    The second and the third tape have one and two passes more. Raises TooManyEventsError where the whole tape would be
    too long.
    """
    fewest, more, most = tapes
    known = LayerExtrapolator()
    if not known.learn(fewest, more):
        return None
    check = _repeat(known, fewest, 2)
    if check is None or check.make_tape(check.sizes) != most:
        return None
    return _repeat(known, fewest, left_out)


def _repeat(known: LayerExtrapolator, fewest: Sequence[Event], passes: int) -> TapeTemplate | None:
    """Return the run with so many passes more, None where they add more than themselves."""
    found = known.extrapolate(fewest, passes, most_events=MOST_SCAN_EVENTS)
    repeated = None if found is None else PositionExtrapolation.from_repetition(found)
    return None if repeated is None else TapeTemplate(fewest, repeated)


def _narrow(numbers: Sequence[int]) -> NDArray[Any]:
    """Return integers as an array of four bytes each."""
    return np.asarray(numbers).astype(np.int32)
