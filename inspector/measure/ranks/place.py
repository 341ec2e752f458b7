"""Which rank of how many this process is: as a launcher says it, or as it is asked for on the one card at hand.

`torchrun` and `accelerate launch` set RANK, WORLD_SIZE and LOCAL_RANK (torch/distributed/run.py). Without them the
other ranks are not there, and a process group that sends nothing stands in for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inspector.errors import UsageError, quoted
from inspector.records.request import Request
from inspector.resolve import MOST_RANKS

__all__ = ["Place", "find_place"]

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A process of a run: `local_rank` is its card, and `has_others` says whether the other ranks are there."""

    rank: int
    world_size: int
    local_rank: int = 0
    has_others: bool = False


def find_place(request: Request, rank: int | None, environment: Mapping[str, str]) -> Place | None:
    """Return which rank a request asks for, None for a run on one card; raises UsageError where none could be so."""
    count = request.gpu_count
    is_spread = any((request.sharding, request.tensor_parallel, request.expert_parallel))
    if all(name in environment for name in _VARIABLES):
        own, size, local = (_read_number(name, environment[name]) for name in _VARIABLES)
        if rank is not None:
            raise UsageError(f"`rank` {rank} is one of {size:,} that a launcher started (RANK is {own}): drop it.")
        if count not in (1, size):
            raise UsageError(
                f"WORLD_SIZE says that {size:,} ranks were launched, and `gpu_count` is {count:,}: launch as many, as "
                f"in torchrun --nproc-per-node {count}, or drop it."
            )
        return Place(rank=own, world_size=size, local_rank=local, has_others=True) if size > 1 or is_spread else None
    if count == 1 and not is_spread:
        if rank is not None:
            raise UsageError(f"`rank` {rank} is one of several: add `gpu_count`, and `sharding` for what they share.")
        return None
    if rank is not None and rank >= count:
        raise UsageError(f"`rank` {rank:,} of {count:,} is none: give one of 0 to {count - 1:,}.")
    if count > MOST_RANKS:
        raise UsageError(f"`gpu_count` is {count:,}; ranks of up to {MOST_RANKS:,} cards are traced.")
    return Place(rank=rank or 0, world_size=count)


def _read_number(name: str, text: str) -> int:
    """Return the number that a launcher set."""
    if not text.isdecimal():
        raise UsageError(f"{name} is {quoted(text, 40)}, and a launcher sets a number: unset it, or use torchrun.")
    return int(text)
