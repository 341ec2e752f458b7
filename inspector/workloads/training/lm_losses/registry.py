"""The losses by name: the one place to add one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from inspector.errors import UsageError
from inspector.records.memory import Unaccounted
from inspector.records.recipe import Recipe
from inspector.records.steps.losses import LigerKernel, LossName, check_liger, check_lora_kernels
from inspector.workloads.base import base_model
from inspector.workloads.training.lm_losses.cce import CutCrossEntropy
from inspector.workloads.training.lm_losses.chunked import ChunkedLoss
from inspector.workloads.training.lm_losses.fused import FusedHead
from inspector.workloads.training.lm_losses.liger import LigerLoss
from inspector.workloads.training.lm_losses.liger_layers import apply_layer_kernels, list_layer_kernels
from inspector.workloads.training.lora_kernels.layers import apply_lora_kernels, explain_left_out, settle_lora_kernels
from inspector.workloads.training.losses import Loss

__all__ = ["list_unaccounted", "make_loss", "settle_loss", "use_layer_kernels"]

_LOSSES: Mapping[LossName, Callable[[], Loss]] = {
    LossName.CHUNKED: ChunkedLoss,
    LossName.FUSED: FusedHead,
    LossName.LIGER: LigerLoss,
    LossName.CCE: CutCrossEntropy,
}


def settle_loss(model: Any, recipe: Recipe) -> Recipe:
    """Return the recipe with Liger's kernels named; raise UsageError where a model has nothing for its loss to work on.

    A model has those kernels of its type that were asked for, none where they are not known here (`list_unaccounted`);
    axolotl's are in layers with LoRA alone.
    """
    base = base_model(model)
    if recipe.liger:
        known, asked = list_layer_kernels(base) or (), check_liger(recipe.liger)
        is_all = LigerKernel.AUTO in asked
        brings_loss = is_all and recipe.loss == LossName.STOCK and recipe.stage is None
        loss = LossName.LIGER if brings_loss else recipe.loss
        kernels = tuple(kernel for kernel in known if is_all or kernel in asked)
        recipe = dataclasses.replace(recipe, liger=kernels or None, loss=loss)
    if recipe.lora_kernels:
        running = settle_lora_kernels(model, check_lora_kernels(recipe.lora_kernels))
        recipe = dataclasses.replace(recipe, lora_kernels=running or None)
    if recipe.stage is None:  # whose losses are stages'
        _check_head(base, recipe)
    return recipe


@contextlib.contextmanager
def use_layer_kernels(model: Any, recipe: Recipe) -> Iterator[None]:
    """Let the layers of a model run the kernels of a recipe inside the block: Liger's, and over them axolotl's."""
    with contextlib.ExitStack() as stack:
        if recipe.liger:
            stack.enter_context(apply_layer_kernels(base_model(model), check_liger(recipe.liger)))
        if recipe.lora_kernels:
            stack.enter_context(apply_lora_kernels(model, check_lora_kernels(recipe.lora_kernels)))
        yield


def list_unaccounted(model: Any, asked: Recipe, recipe: Recipe) -> Iterator[Unaccounted]:
    """Yield what the kernels of a recipe may take beside what is traced, and kernels that are not known."""
    if recipe.loss == LossName.CCE:
        why = "each of its kernels measures itself in the first step, with a buffer of 256 MiB from torch's allocator"
        yield Unaccounted(what="autotuning of cut-cross-entropy", why=why)
    if asked.liger and list_layer_kernels(base_model(model)) is None:
        why = f"which of them are in the layers of {type(base_model(model)).__name__} is not known here"
        yield Unaccounted(what="Liger's kernels of layers", why=why)
    for why in explain_left_out(model, check_lora_kernels(asked.lora_kernels)) if asked.lora_kernels else ():
        yield Unaccounted(what="axolotl's LoRA kernels", why=why)


def _check_head(base: Any, recipe: Recipe) -> None:
    """Raise UsageError where a model has no head that the loss of a recipe could work on."""
    if recipe.loss == LossName.STOCK:
        return
    is_causal = LOSS_MAPPING.get(getattr(base, "loss_type", None) or "") is ForCausalLMLoss
    is_causal = is_causal and not getattr(base.config, "is_encoder_decoder", False)
    if not is_causal or getattr(base.get_output_embeddings(), "weight", None) is None:
        raise UsageError(
            f"`loss={recipe.loss}` is of causal language models with a head, and {type(base).__name__} is none: use "
            "`loss=stock`."
        )


def make_loss(recipe: Recipe) -> Loss | None:
    """Return the loss of a recipe, None for the model's own."""
    make = _LOSSES.get(LossName(recipe.loss))
    return None if make is None else make()
