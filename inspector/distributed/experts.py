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

from inspector.trace.shadow import Shadows

__all__ = ["exchange_counts"]


def exchange_counts(shadows: Shadows, received: Tensor, sent: Tensor, group: Any) -> None:
    """Give what a rank receives in an exchange of numbers its value: all ranks of the group send what this one does."""
    value = shadows.find(sent)
    if value is None:
        return
    ranks = torch.distributed.ProcessGroup.unbox(group)
    own = value.chunk(ranks.size())[ranks.rank()]
    shadows.set(received, own.repeat(ranks.size(), *[1] * (value.dim() - 1)))
