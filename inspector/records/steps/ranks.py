"""How a run is spread over several cards, and what each rank of it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = [
    "Ddp",
    "DeviceMap",
    "Fsdp1",
    "Fsdp2",
    "Launch",
    "RankClass",
    "RankLaunch",
    "Ranks",
    "TensorParallel",
    "Zero",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ddp:
    """DistributedDataParallel as accelerate launches it on `world_size` ranks, one a card: each has the whole model.

    `find_unused_parameters` is DDP's own; None is what Trainer sets.
    """

    world_size: int
    find_unused_parameters: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fsdp2:
    """FSDP2 as accelerate launches it.

    `world_size` is the number of ranks, one a card. `reshard_after_forward` says whether a layer's gathered parameters
    are freed between its two passes. Units are as in `Fsdp1`, with the embedding, and the last norm
    with the head. `comes_from_host` says whether units go to the card whole and are cut there, as those of a model that
    was loaded in host memory do; else shards are made on the card (`to_empty` of a model on meta). With `offload`
    shards, their gradients and states stay in host memory. `replicas` is how many groups of ranks have all shards, and
    reduce gradients among each other (accelerate's `dp_replicate_size`). With `cpu_ram_efficient_loading` rank 0 sends
    the weights: one parameter at a time is on each card whole, and is cut there.
    """

    world_size: int
    reshard_after_forward: bool = True
    comes_from_host: bool = True
    wrap_policy: str = "TRANSFORMER_BASED_WRAP"
    wrapped_classes: tuple[str, ...] | None = None
    min_num_params: int = 0
    offload: bool = False
    replicas: int = 1
    cpu_ram_efficient_loading: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fsdp1:
    """FSDP1 as accelerate launches it, with the defaults of Trainer's `fsdp_config` for version 1.

    `sharding_strategy` and `backward_prefetch` are names of torch's, None for no prefetch, `wrap_policy` is one of
    accelerate's, with `wrapped_classes` the layers that are units, None the model's own `_no_split_modules`, or
    `min_num_params` how large one is at least. `sync_module_states` sends rank 0's weights to the others. `replicas` is
    how many machines have all shards, where the strategy is a hybrid one. `packed_on_host` says whether packed weights
    come from host memory as others do; else they are on each card before anything is sharded. With `offload` shards,
    their gradients and states stay in host memory.
    """

    world_size: int
    sharding_strategy: str = "FULL_SHARD"
    backward_prefetch: str | None = None
    forward_prefetch: bool = False
    use_orig_params: bool = True
    sync_module_states: bool = True
    wrap_policy: str = "TRANSFORMER_BASED_WRAP"
    wrapped_classes: tuple[str, ...] | None = None
    min_num_params: int = 0
    replicas: int = 1
    packed_on_host: bool = False
    offload: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorParallel:
    """Layers that `tensor_parallel` of `world_size` ranks share each, by the plan that transformers has of a model.

    Where there are more ranks, each part is sharded over as many groups by FSDP2. A layer's experts lie whole on
    `expert_parallel` ranks, which send each other tokens; 1 leaves them to the other two.
    """

    world_size: int
    tensor_parallel: int
    expert_parallel: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMap:
    """A model whose modules lie on `world_size` cards, of which one works at a time.

    `device_map` is transformers' argument: how the map is made (auto, balanced, balanced_low_0, sequential), or the map
    itself. `card_bytes` is what torch has of each card.
    """

    world_size: int
    device_map: str | Mapping[str, int | str]
    card_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Zero:
    """A stage of DeepSpeed's ZeRO as accelerate launches it.

    `config` is DeepSpeed's own, in which "auto" may stand; None the one of transformers' examples.
    """

    world_size: int
    stage: int
    config: Mapping[str, Any] | None = None


# How a run is spread over its cards.
RankLaunch: TypeAlias = Ddp | Fsdp1 | Fsdp2 | TensorParallel | Zero
Launch: TypeAlias = RankLaunch | DeviceMap


@dataclass(frozen=True, slots=True, kw_only=True)
class RankClass:
    """The ranks `first` to `last`, which hold as many rows of every parameter: what each takes, of one that was traced.

    Where shards are kept in several copies they are ranks of the first, and those of the others are like them.
    `total_bytes` is what nvidia-smi would show of it at the peak.
    """

    first: int
    last: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Which rank of a run the figures are of.

    `strategy` is how the run is spread over `world_size` ranks, `rank` the one that takes most; `alike` counts the
    ranks that hold as many rows of every parameter and so take the same, it included. `classes` are all ranks that
    differ, those that take most first; empty where all take the same. `copies` is how many groups of ranks have all
    shards, None for one.
    """

    strategy: str
    world_size: int
    rank: int
    alike: int
    classes: Sequence[RankClass] = ()
    copies: int | None = None
