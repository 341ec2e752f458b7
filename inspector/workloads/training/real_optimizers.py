"""The optimizer of a recipe as it runs on a GPU: that of the trace, but real classes where kernels are a package's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from inspector.records.recipe import Recipe
from inspector.records.steps.optimizers import FAMILIES
from inspector.workloads.training.optimizers import build_optimizer, list_parameter_groups

__all__ = ["build_real_optimizer"]


def build_real_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe for what trains in a model on a device."""
    if recipe.optimizer not in (*FAMILIES["bitsandbytes"], *FAMILIES["torch-optimi"]):
        return build_optimizer(model, recipe)
    arguments = TrainingArguments(optim=recipe.optimizer, optim_args=recipe.optim_args, report_to=[])
    wrapped: Any = model
    make, options = Trainer.get_optimizer_cls_and_kwargs(arguments, wrapped)
    optimizer: torch.optim.Optimizer = make(list(list_parameter_groups(model, recipe.loop)), **options)
    if recipe.loop == "trainer" and options.get("optim_bits") == 8:
        _keep_embeddings_wide(model)
    return optimizer


def _keep_embeddings_wide(model: nn.Module) -> None:
    """Give embeddings 32-bit state, as the Trainer does (transformers 5.23, Trainer.create_optimizer)."""
    import bitsandbytes  # type: ignore[import-not-found]  # only where such an optimizer was asked for

    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})
