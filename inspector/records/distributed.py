"""How a run is spread over several cards, and what each rank of it takes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Fsdp2", "Ranks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fsdp2:
    """FSDP2 as accelerate launches it.

    `world_size` is the number of ranks, one a card. `replicas` is how many groups of them hold all shards each (HSDP),
    1 for none. `reshard_after_forward` says whether a layer's gathered parameters are freed between its two passes.
    """

    world_size: int
    replicas: int = 1
    reshard_after_forward: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Which rank of a run the figures are of.

    `strategy` is how the run is spread over `world_size` ranks, `rank` the one that takes most; `alike` counts the
    ranks that hold as many rows of every parameter and so take the same, it included.
    """

    strategy: str
    world_size: int
    rank: int
    alike: int
