"""Whole experts on ranks of their own, which send each other the tokens: transformers' expert parallelism.

`DistributedConfig(ep_size=8)` leaves each rank an eighth of every layer's experts (transformers/distributed/
expert_parallel.py, 5.23). In training a rank counts the tokens that it has for each expert, exchanges the counts, reads
them back, and exchanges the tokens (`AllToAllEP`). How many go where is what a router says of the data; experts are
taken to be balanced here, as where a loop over them reads it (trace/rules/moe_routing.py), and the other ranks to route
as this one does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inspector.errors import UsageError
from inspector.trace.shadow import Shadows

__all__ = ["exchange_counts", "refuse_parts_of_experts"]

# What a configuration calls the number of a layer's experts.
_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def refuse_parts_of_experts(base: Any, count: int) -> None:
    """Raise UsageError where transformers has no plan for a model's experts, or a card would have a part of one."""
    if not base.ep_plan:
        raise UsageError(
            f"transformers has no plan for experts of {type(base).__name__}, by which `expert_parallel` would spread "
            "them: drop it, or cut layers with `tensor_parallel`, or shard them with `sharding=fsdp`."
        )
    for name in _COUNTS:
        experts = getattr(base.config.get_text_config(), name, None)
        if isinstance(experts, int) and experts % count:
            raise UsageError(
                f"`expert_parallel` {count:,} does not divide the {experts:,} experts of {type(base).__name__}, and a "
                f"real step stops there, too: give one of {', '.join(_list_divisors(experts))}."
            )


def _list_divisors(number: int) -> list[str]:
    """Return the numbers above 1 that divide another."""
    return [f"{item:,}" for item in range(2, number + 1) if number % item == 0]


def exchange_counts(shadows: Shadows, received: Tensor, sent: Tensor, group: Any) -> None:
    """Give what a rank receives in an exchange of numbers its value: all ranks of the group send what this one does."""
    value = shadows.find(sent)
    if value is None:
        return
    ranks = torch.distributed.ProcessGroup.unbox(group)
    own = value.chunk(ranks.size())[ranks.rank()]
    shadows.set(received, own.repeat(ranks.size(), *[1] * (value.dim() - 1)))
