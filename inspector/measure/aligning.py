"""The allocator's own history beside the tape: where the first allocation differs.

Both are sequences of sizes, positive for an allocation and negative for a free. They are walked side by side; where
they part, the nearest place from which both go on alike is looked for, and what lies between is one difference.

Sizes alone are compared, so two tensors of one size that change places are not seen: they take the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from inspector.records.measurement import Difference
from inspector.records.tape import Event, EventKind

__all__ = ["find_differences", "list_sizes"]

# How far to look for the place where both agree again, and for how many events they must agree there.
_WINDOW = 200
_AGREEMENT = 8


def list_sizes(tape: Sequence[Event]) -> tuple[list[int], list[Event]]:
    """Return the signed sizes of a tape with the event behind each; tensors without elements take nothing."""
    events = [event for event in tape if event.bytes and event.kind in (EventKind.ALLOCATE, EventKind.FREE)]
    return [event.bytes if event.kind is EventKind.ALLOCATE else -event.bytes for event in events], events


def find_differences(measured: Sequence[int], tape: Sequence[Event]) -> list[Difference]:
    """Return where the sizes that were measured differ from those of the tape, in order."""
    predicted, events = list_sizes(tape)
    found = []
    here = there = 0
    while here < len(measured) or there < len(predicted):
        if here < len(measured) and there < len(predicted) and measured[here] == predicted[there]:
            here, there = here + 1, there + 1
            continue
        past_here, past_there = _find_agreement(measured, predicted, here, there)
        at = events[min(there if past_there > there else max(there - 1, 0), len(events) - 1)]
        found.append(
            Difference(
                step=at.step,
                phase=at.phase,
                module=at.module,
                op=at.op,
                measured=tuple(measured[here:past_here]),
                predicted=tuple(predicted[there:past_there]),
            )
        )
        here, there = past_here, past_there
    return found


def _find_agreement(measured: Sequence[int], predicted: Sequence[int], here: int, there: int) -> tuple[int, int]:
    """Return the nearest places from which both go on alike, their ends where there are none."""
    for distance in range(1, _WINDOW):
        for ahead in range(distance + 1):
            start, other = here + ahead, there + distance - ahead
            if start > len(measured) or other > len(predicted):
                continue
            piece = measured[start : start + _AGREEMENT]
            if list(piece) == list(predicted[other : other + _AGREEMENT]):
                return start, other
    return len(measured), len(predicted)
