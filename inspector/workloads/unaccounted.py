"""What a real run of this very model may take and a trace of it does not count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from inspector.hardware.platform import Platform
from inspector.model.roles import list_expert_banks
from inspector.records.memory import Unaccounted
from inspector.records.recipe import Recipe
from inspector.trace.kernels.registry import (
    ATTENTION_PLANS,
    CONVOLUTION_PLANS,
    EXPERT_PRODUCTS,
    RECURRENT_LAYERS,
)
from inspector.trace.rules.moe_routing import loops_over_experts
from inspector.workloads.base import base_model
from inspector.workloads.batch import find_left_out
from inspector.workloads.quantized_load import OUTLIERS, has_int8_weights

__all__ = ["find_unaccounted"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_HALF = (torch.float16, torch.bfloat16)


def find_unaccounted(model: Any, recipe: Recipe, platform: Platform, inputs: Iterable[str]) -> tuple[Unaccounted, ...]:
    """Return what kernels take in a run of `recipe` on a batch of `inputs` that no rule knows."""
    found = _list_unaccounted(base_model(model), recipe, platform, inputs)
    return tuple(Unaccounted(what=what, why=why) for what, why in found)


def _list_unaccounted(
    base: nn.Module, recipe: Recipe, platform: Platform, inputs: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """Yield what concerns the model, and why it is not counted."""
    modules = list(base.modules())
    if has_int8_weights(base):
        yield OUTLIERS
    if any(isinstance(module, nn.RNNBase) for module in modules) and not find_left_out(base, inputs):
        yield RECURRENT_LAYERS
    if list_expert_banks(base) and not loops_over_experts(base):
        yield EXPERT_PRODUCTS
    # The towers of images and sound, which have them, do not run on text alone.
    if any(isinstance(module, _CONVOLUTIONS) for module in modules) and not find_left_out(base, inputs):
        yield CONVOLUTION_PLANS
    if recipe.attention == "sdpa" and _may_take_cudnn(base, recipe, platform):
        yield ATTENTION_PLANS


def _may_take_cudnn(base: nn.Module, recipe: Recipe, platform: Platform) -> bool:
    """Tell whether attention may run in cuDNN, which takes half precision alone."""
    if recipe.sdpa_backend != "auto":
        return recipe.sdpa_backend == "cudnn"
    is_half = recipe.mixed_precision != "no" or any(parameter.dtype in _HALF for parameter in base.parameters())
    return is_half and platform.prefers_cudnn
