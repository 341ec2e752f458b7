"""The tape of a run whose layers scan, from tapes in which their loops over positions make few passes.

All tensors have the sizes of every position; what these tapes lack are passes of loops (`trace.scan_loops`). Two of
them that differ by one pass say what a pass adds, as two models that differ by one layer do (`extrapolate.layers`).
Only what a pass adds is repeated: a size that depends on how many there are, or a third tape that does not follow from
the two, says that passes are not alike, and the run is traced whole. tests/extrapolate holds such tapes against those
of runs that were traced with all passes, event by event.
"""

from __future__ import annotations

from collections.abc import Sequence

from inspector.extrapolate.layers import LayerExtrapolation, LayerExtrapolator
from inspector.extrapolate.template import TapeTemplate
from inspector.records.tape import Event

__all__ = ["extrapolate_positions"]


def extrapolate_positions(tapes: Sequence[Sequence[Event]], left_out: int) -> TapeTemplate | None:
    """Return the run with the passes that the first tape lacks, None where the tapes do not say it.

    The second and the third tape have one and two passes more. Raises TooManyEventsError where the whole tape would be
    too long.
    """
    fewest, more, most = tapes
    known = LayerExtrapolator()
    check = known.extrapolate(fewest, 2) if known.learn(fewest, more) else None
    if check is None or not _only_repeats(check):
        return None
    template = TapeTemplate(fewest, check)
    if template.make_tape(template.sizes) != most:
        return None
    found = known.extrapolate(fewest, left_out)
    return None if found is None else TapeTemplate(fewest, found)


def _only_repeats(found: LayerExtrapolation) -> bool:
    """Tell whether passes add no bytes to what is there without them, and nothing to layers other than their own."""
    return not any(found.added_bytes) and found.renamings == (None,)
