"""Run the steps of a recipe for real as a rank of a launch: what is traced on meta, with data on a card.

The model is made in host memory and goes to the card as the strategy brings it there: accelerate's own function wraps
it for FSDP2, torch's classes for FSDP1 and DDP with accelerate's arguments, transformers cuts it for tensor
parallelism. Packed weights are made on the card. The loop is that of the trace (`workloads/training/loops.py`).

Not covered: ZeRO, whose package keeps the device that it was traced with for the rest of the process.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from inspector.distributed.ddp import wrap_with_ddp
from inspector.distributed.fsdp1 import shard_with_fsdp1
from inspector.distributed.fsdp2 import shard_with_fsdp2
from inspector.distributed.run import reduce_in_last_micro_batch
from inspector.distributed.tensor_parallel import bring_to_card, cut_by_plan, split_groups_by_mesh
from inspector.measure.loading import DEVIATION, load_model
from inspector.measure.quantized import load_quantized_model
from inspector.measure.running import Watcher, choose_attention_kernel, make_real_batch
from inspector.model.adapter.butterfly import stand_in_for_extension
from inspector.model.build import BuiltModel
from inspector.records.recipe import Recipe
from inspector.records.steps.ranks import Ddp, Fsdp1, Fsdp2, RankLaunch, TensorParallel
from inspector.records.tape import Phase
from inspector.runtime.patches import restore_changes
from inspector.workloads.base import Workload, base_model
from inspector.workloads.quantized_load import is_quantized

__all__ = ["run_rank_steps"]

_HOST = torch.device("cpu")


def run_rank_steps(
    workload: Workload,
    built: BuiltModel,
    recipe: Recipe,
    device: torch.device,
    watcher: Watcher,
    launch: RankLaunch,
    *,
    has_others: bool,
) -> None:
    """Load a model on meta and run the steps of a resolved `recipe` on `device`, as the rank of the group at hand."""
    watcher.enter(Phase.LOAD, 0)
    if isinstance(launch, TensorParallel):
        built = cut_by_plan(built, launch, device)
        bring_to_card(built, None, device)
        torch.cuda.empty_cache()  # as Trainer begins with
    model: Any = built.model
    if is_quantized(base_model(model)):
        is_on_host = isinstance(launch, Fsdp1) and launch.packed_on_host
        model = load_quantized_model(built, _HOST if is_on_host else device)
        torch.cuda.empty_cache()  # Trainer's first act (trainer.py, `free_memory`)
        workload.prepare(model, recipe)
    else:
        workload.prepare(model, recipe)
        if not isinstance(launch, TensorParallel):
            _load_on_host(built)
    with restore_changes():
        model = _wrap(model, launch, recipe, device, has_others=has_others)
        loss_sum = workload.make_loss_sum(device, recipe)
        batch = make_real_batch(workload, model, recipe, device)
        if isinstance(launch, Fsdp2):  # which casts by a policy of its own
            recipe = dataclasses.replace(recipe, mixed_precision="no")
        state = workload.make_state(model, recipe, on_gpu=True)
        if isinstance(launch, TensorParallel):
            split_groups_by_mesh(state)
        on_phase = reduce_in_last_micro_batch(model, recipe.gradient_accumulation, watcher.enter)
        with choose_attention_kernel(recipe), stand_in_for_extension():
            kept = workload.run(model, batch, state, on_phase, recipe, loss_sum)
            watcher.close()
            del kept


def _wrap(model: nn.Module, launch: RankLaunch, recipe: Recipe, device: torch.device, *, has_others: bool) -> nn.Module:
    """Return a model as a launch wraps it, on the card."""
    if isinstance(launch, Ddp):
        model.to(device)
        return wrap_with_ddp(model, launch, recipe, device=device, has_others=has_others)
    if isinstance(launch, Fsdp1):
        return shard_with_fsdp1(model, launch, recipe.mixed_precision, None, device)
    if isinstance(launch, Fsdp2):
        return shard_with_fsdp2(model, launch, recipe.mixed_precision, None, device)
    assert isinstance(launch, TensorParallel), "others are refused before"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, DEVIATION) if parameter.dim() > 1 else parameter.fill_(1.0)
        for buffer in model.buffers():
            buffer.zero_()
    return model


def _load_on_host(built: BuiltModel) -> None:
    """Put a model into host memory: every matrix is a piece of one block of random numbers, as large as the largest."""
    largest = max((item.numel() for item in built.model.parameters() if item.is_meta), default=0)
    blocks: dict[torch.dtype, Tensor] = {}

    def place(name: str, tensor: Tensor, value: Tensor | None, _device: torch.device) -> Tensor:
        if value is not None or not tensor.is_meta:
            return (tensor if value is None else value).clone()
        if not tensor.is_floating_point():
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        if tensor.dim() < 2:
            return torch.full(tensor.shape, float(name.endswith("weight")), dtype=tensor.dtype)
        if tensor.dtype not in blocks:
            blocks[tensor.dtype] = torch.empty(largest, dtype=tensor.dtype).normal_(0.0, DEVIATION)
        return blocks[tensor.dtype][: tensor.numel()].view(tensor.shape)

    load_model(built, _HOST, place)
