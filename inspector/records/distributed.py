"""How a run is spread over several cards, and what each rank of it takes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Fsdp2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fsdp2:
    """FSDP2 as accelerate launches it.

    `world_size` is the number of ranks, one a card. `replicas` is how many groups of them hold all shards each (HSDP),
    1 for none. `reshard_after_forward` says whether a layer's gathered parameters are freed between its two passes.
    """

    world_size: int
    replicas: int = 1
    reshard_after_forward: bool = True
