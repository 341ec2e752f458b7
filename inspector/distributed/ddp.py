"""DistributedDataParallel as accelerate, and so Trainer, wraps a model.

Every rank has the whole model and the buckets that gradients are reduced in. Trainer looks for unused parameters unless
a transformers model is checkpointed (trainer.py, `create_accelerator_and_postprocess`, 5.23): then buckets of 1 and 25
MiB are made when the model is wrapped. Else there is one with everything at first, and the others are made when the
second step begins (torch/csrc/distributed/c10d/reducer.cpp). The default hook's future holds no tensors on meta, so a
hook that does the same stands in for it. The constructor sends rank 0's weights to the others, 250 MiB at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from inspector.compat.distributed import expect_same_parameters
from inspector.records.recipe import Recipe
from inspector.records.steps.ranks import Ddp
from inspector.runtime.patches import restore_changes
from inspector.workloads.base import NotTraceableError

__all__ = ["wrap_with_ddp"]


def wrap_with_ddp(
    model: nn.Module,
    launch: Ddp,
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    has_others: bool = False,
) -> DistributedDataParallel:
    """Wrap a model for DDP on the ranks of the world at hand, on a `device` or on meta; `has_others` if they answer.

    Raises NotTraceableError where DDP looks for unused parameters and checkpoints are reentrant: their blocks' backward
    pass marks parameters a second time, and torch stops.
    """
    is_checkpointed = bool(recipe.gradient_checkpointing)
    finds_unused = launch.find_unused_parameters
    if finds_unused is None:
        finds_unused = not (isinstance(model, PreTrainedModel) and is_checkpointed)
    if finds_unused and is_checkpointed and recipe.use_reentrant:
        raise NotTraceableError(
            "DDP that looks for unused parameters stops at reentrant checkpoints, in a real step too: Trainer has it "
            "look with an adapter, and PEFT's preparation makes checkpoints reentrant; add `gradient_checkpointing` "
            "(Trainer's own is not), or ddp_find_unused_parameters: false to the training file"
        )
    place = [device] if device is not None and device.type == "cuda" else None
    with restore_changes():
        if not has_others:
            expect_same_parameters()
        wrapped = DistributedDataParallel(model, device_ids=place, find_unused_parameters=finds_unused)
    if has_others:
        return wrapped
    # Annotations would have to be no strings.
    wrapped.register_comm_hook(launch.world_size, lambda size, bucket: _reduce(size, bucket))
    return wrapped


def _reduce(world_size: int, bucket: Any) -> torch.futures.Future[Tensor]:
    """Return the mean of a bucket over all ranks, in the bucket itself."""
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer().div_(world_size))
    return future
