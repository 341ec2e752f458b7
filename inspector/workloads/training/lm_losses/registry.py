"""The losses by name: the one place to add one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from inspector.errors import UsageError
from inspector.records.losses import LossName
from inspector.records.recipe import Recipe
from inspector.workloads.base import base_model
from inspector.workloads.training.lm_losses.chunked import ChunkedLoss
from inspector.workloads.training.lm_losses.fused import FusedHead
from inspector.workloads.training.losses import Loss

__all__ = ["check_loss", "make_loss"]

_LOSSES: Mapping[LossName, Callable[[], Loss]] = {LossName.CHUNKED: ChunkedLoss, LossName.FUSED: FusedHead}


def check_loss(model: Any, recipe: Recipe) -> None:
    """Raise UsageError where a model has no head that the loss of a recipe could work on."""
    base = base_model(model)
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
