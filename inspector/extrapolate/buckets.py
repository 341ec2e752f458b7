"""Buckets of DDP, which are as large as DDP lets them be and no piece of a layer: where added layers would widen one.

DDP sends parameters in buffers of 250 MiB while it is constructed, and reduces gradients in buckets of 25 MiB, all but
the one with everything (torch/nn/parallel/distributed.py, `broadcast_bucket_size` and `bucket_cap_mb`; 2.13). A bucket
is closed by the parameter that fills it, so that one of a shallow model may end where more layers would fill it.
"""

from __future__ import annotations

from collections.abc import Sequence

from inspector.records.tape import Category, Event, EventKind, Phase

__all__ = ["widens_buckets"]

_SENT_BYTES = 250 * 2**20
_REDUCED_BYTES = 25 * 2**20
_SEND, _MAKE = "aten.cat.default", "aten.empty.memory_format"


def widens_buckets(shallow: Sequence[Event], whole: Sequence[Event]) -> bool:
    """Tell whether the tape of a whole model that follows from a shallow one has buckets that DDP would not fill so."""
    known = {event.bytes for event in shallow if event.kind is EventKind.ALLOCATE}
    made = [event for event in whole if _is_bucket(event)]
    # One alone has everything, and is no wider than it may be.
    has_all = sum(event.op == _MAKE and event.step == 0 for event in made) == 1
    wide = [event for event in made if event.bytes not in known]
    return any(
        event.bytes > _SENT_BYTES
        if event.op == _SEND
        else event.bytes > _REDUCED_BYTES and not (has_all and event.step == 0)
        for event in wide
    )


def _is_bucket(event: Event) -> bool:
    """Tell whether a block is made while DDP is constructed, or when it makes its buckets anew."""
    if event.kind is not EventKind.ALLOCATE:
        return False
    if event.step == 0:
        return event.category is Category.COMMUNICATION and event.op in (_SEND, _MAKE)
    return event.step == 2 and event.phase is Phase.FORWARD and event.op == _MAKE
