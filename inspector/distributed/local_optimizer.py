"""An optimizer whose parameters are DTensors, stepped on their local tensors.

A shard's update is the same ops on the same storages; what DTensor adds is the work of finding out that it is, which
is most of the time of a traced step. That holds of torch's own optimizers. Others mix shards with tensors of their own,
where a real step stops (transformers' Adafactor does), or are not known here on shards.
"""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor

from inspector.compat.distributed import local_tensor_of
from inspector.workloads.base import NotTraceableError

__all__ = ["step_on_local_tensors"]


def step_on_local_tensors(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer that has made no step yet hold the local tensors of its parameters.

    Raises NotTraceableError where it is none of torch's own and its parameters are sharded.
    """
    sharded: list[tuple[torch.Tensor, DTensor]] = []
    for group in optimizer.param_groups:
        for index, parameter in enumerate(group["params"]):
            if isinstance(parameter, DTensor):
                if not type(optimizer).__module__.startswith("torch.optim"):
                    raise NotTraceableError(
                        f"how {type(optimizer).__name__} updates shards is not known, or it stops there: use "
                        "`optimizer=adamw_torch_fused`, or drop `sharding`"
                    )
                local = local_tensor_of(parameter).detach().requires_grad_()
                group["params"][index] = local
                sharded.append((local, parameter))

    def take_gradients(_optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
        for local, parameter in sharded:
            local.grad = None if parameter.grad is None else local_tensor_of(parameter.grad)

    def drop_gradients(_optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
        for local, _ in sharded:
            local.grad = None

    optimizer.register_step_pre_hook(take_gradients)
    optimizer.register_step_post_hook(drop_gradients)
