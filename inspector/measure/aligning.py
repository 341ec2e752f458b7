"""The allocator's own history beside the tape: where the first allocation differs.

Both are sequences of sizes, positive for an allocation and negative for a free. They are walked side by side; where
they part, the nearest place from which both agree again is looked for, and what lies between is one difference.

Sizes alone are compared, so two tensors of one size that change places are not seen: they take the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from inspector.records.measurement import Difference
from inspector.records.tape import Event, EventKind

__all__ = ["find_differences", "list_sizes"]

# How far to look for the place where both agree again, and for how many events they must agree from it on.
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
    at_measured = at_predicted = 0
    while at_measured < len(measured) or at_predicted < len(predicted):
        if (
            at_measured < len(measured)
            and at_predicted < len(predicted)
            and measured[at_measured] == predicted[at_predicted]
        ):
            at_measured, at_predicted = at_measured + 1, at_predicted + 1
            continue
        next_measured, next_predicted = _find_agreement(measured, predicted, at_measured, at_predicted)
        event = events[
            min(at_predicted if next_predicted > at_predicted else max(at_predicted - 1, 0), len(events) - 1)
        ]
        found.append(
            Difference(
                step=event.step,
                phase=event.phase,
                module=event.module,
                op=event.op,
                measured=tuple(measured[at_measured:next_measured]),
                predicted=tuple(predicted[at_predicted:next_predicted]),
            )
        )
        at_measured, at_predicted = next_measured, next_predicted
    return found


def _find_agreement(
    measured: Sequence[int], predicted: Sequence[int], at_measured: int, at_predicted: int
) -> tuple[int, int]:
    """Return the nearest places from which both agree again, their ends where they do not."""
    for distance in range(1, _WINDOW):
        for ahead in range(distance + 1):
            start, other = at_measured + ahead, at_predicted + distance - ahead
            if start > len(measured) or other > len(predicted):
                continue
            piece = measured[start : start + _AGREEMENT]
            if list(piece) == list(predicted[other : other + _AGREEMENT]):
                return start, other
    return len(measured), len(predicted)
