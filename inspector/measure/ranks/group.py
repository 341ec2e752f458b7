"""The process group of a measured rank: NCCL with the others, or one that knows rank and size and sends nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from inspector.compat.distributed import FakeStore
from inspector.measure.ranks.place import Place
from inspector.runtime.patches import call_at_end, restore_changes

__all__ = ["FAKE", "begin_group", "gather"]

FAKE = "fake"
_WITH_OTHERS = {"cuda": "nccl", "cpu": "gloo"}


@contextlib.contextmanager
def begin_group(place: Place, device: torch.device) -> Iterator[str]:
    """Make this process the rank of its place inside the block; yield what sends for a device.

    What the host sends, such as norms of gradients that wait there, goes through gloo.
    """
    how = _WITH_OTHERS[device.type] if place.has_others else FAKE
    with restore_changes():
        call_at_end(_end_group)
        if place.has_others:
            backends = how if device.type == "cpu" else f"cpu:gloo,{device.type}:{how}"
            dist.init_process_group(backends, rank=place.rank, world_size=place.world_size)
        else:
            dist.init_process_group(FAKE, rank=place.rank, world_size=place.world_size, store=FakeStore())
        yield how


def _end_group() -> None:
    """End the process group, if it is there."""
    if dist.is_initialized():
        dist.destroy_process_group()


def gather(item: Any, place: Place) -> list[Any]:
    """Return what every rank has, in their order; nothing is made on a card."""
    if not place.has_others:
        return [item]
    found: list[Any] = [None] * place.world_size
    dist.all_gather_object(found, item, group=dist.new_group(backend="gloo"))
    return found
