"""A step of a stage: how its recipe is settled, its model set up, and its updates run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import nn
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from inspector.errors import UsageError
from inspector.model.changes.value_head import has_value_head, scores_sequences
from inspector.records.recipe import Recipe
from inspector.records.steps.losses import LossName
from inspector.records.steps.stages import PAIRED, WITH_REFERENCE, Reference
from inspector.workloads.base import OnPhase, base_model
from inspector.workloads.quantized_load import is_quantized
from inspector.workloads.training.lm_losses.fused import add_fused_head
from inspector.workloads.training.loops import find_device, run_trainer_steps
from inspector.workloads.training.stages.cpo import CpoLoss
from inspector.workloads.training.stages.dpo import DpoLoss, FusedDpoLoss
from inspector.workloads.training.stages.grpo import GrpoLoss
from inspector.workloads.training.stages.kto import FusedKtoLoss, KtoLoss
from inspector.workloads.training.stages.llamafactory import (
    LlamaFactoryDpoLoss,
    LlamaFactoryKtoLoss,
    LlamaFactoryRewardLoss,
)
from inspector.workloads.training.stages.orpo import OrpoLoss
from inspector.workloads.training.stages.passes import (
    Passes,
    disable_dropout,
    find_reference,
    find_second_model,
    keep_second_model,
)
from inspector.workloads.training.stages.reward import RewardLoss
from inspector.workloads.training.stages.stage_loss import StageLoss

__all__ = ["find_stage_loss", "prepare_stage", "run_stage", "settle_stage"]

# What runs by stage and by what makes its loss: `fused` is TRL 1.15 and newer, `stock` the releases before.
_LOSSES: Mapping[tuple[str, str], type[StageLoss]] = {
    ("cpo", "stock"): CpoLoss,
    ("dpo", "stock"): DpoLoss,
    ("dpo", "fused"): FusedDpoLoss,
    ("dpo", "float32"): LlamaFactoryDpoLoss,
    ("grpo", "stock"): GrpoLoss,
    ("grpo", "fused"): GrpoLoss,
    ("kto", "stock"): KtoLoss,
    ("kto", "fused"): FusedKtoLoss,
    ("kto", "float32"): LlamaFactoryKtoLoss,
    ("orpo", "stock"): OrpoLoss,
    ("reward", "stock"): RewardLoss,
    ("reward", "float32"): LlamaFactoryRewardLoss,
}


def settle_stage(model: Any, recipe: Recipe) -> Recipe:
    """Return a recipe with padding decided by the rows of its stage; raise UsageError where no step could run so."""
    if recipe.stage is None:
        if recipe.loss == LossName.FLOAT32:
            raise UsageError(
                "`loss=float32` is LLaMA-Factory's DPO, KTO and reward training: add `stage=dpo`, `stage=kto` or "
                "`stage=reward`, or use `loss=stock`."
            )
        return recipe
    if recipe.loop != "trainer":
        raise UsageError(f"`stage={recipe.stage}` is run by a trainer: drop `loop`.")
    if (str(recipe.stage), str(recipe.loss)) not in _LOSSES:
        known = ", ".join(loss for stage, loss in _LOSSES if stage == recipe.stage)
        raise UsageError(f"no trainer of `stage={recipe.stage}` has `loss={recipe.loss}`: use one of {known}.")
    base = base_model(model)
    if not scores_sequences(recipe) and not _makes_next_tokens(base):
        raise UsageError(
            f"`stage={recipe.stage}` is of causal language models with a head, and {type(base).__name__} is none: drop "
            "it."
        )
    reference = find_reference(model, recipe)
    is_adapted = hasattr(model, "disable_adapter")
    if reference is Reference.ADAPTER and not is_adapted:
        raise UsageError(
            "`reference=adapter` is the model without its adapter, and there is none: add `peft=LoraOptions(r=16)`, or "
            "use `reference=model`."
        )
    if reference is Reference.MODEL and is_quantized(base):
        raise UsageError(
            "a second model beside quantized weights is not traced: use `reference=adapter`, which is what trainers do."
        )
    if has_value_head(recipe) and not hasattr(model, "v_head"):
        raise UsageError(
            "LLaMA-Factory's reward training puts a head of values on a model that is built here: pass a configuration "
            "or an id."
        )
    if scores_sequences(recipe) and (getattr(base.config, "num_labels", 0) != 1 or not hasattr(base, "num_labels")):
        raise UsageError(
            f"{type(base).__name__} gives no single score, which `stage=reward` trains: pass the configuration in its "
            "place, or a model with `num_labels=1`."
        )
    if recipe.stage == "grpo":
        _check_groups(recipe)
    rows = recipe.batch_size * (2 if recipe.stage in PAIRED else 1)
    if recipe.stage == "grpo":  # prompts are padded to the longest of all that are generated from
        rows *= recipe.gradient_accumulation
    padding = rows > 1 if recipe.padding is None else recipe.padding
    has_reference = recipe.stage in WITH_REFERENCE
    return dataclasses.replace(recipe, padding=padding, reference=reference if has_reference else None)


def _makes_next_tokens(base: Any) -> bool:
    """Tell whether a model is a decoder with a head that scores the next token of each position."""
    is_causal = LOSS_MAPPING.get(getattr(base, "loss_type", None) or "") is ForCausalLMLoss
    has_head = base.get_output_embeddings() is not None
    return is_causal and has_head and not getattr(base.config, "is_encoder_decoder", False)


def _check_groups(recipe: Recipe) -> None:
    """Raise UsageError where the rows of an update are no whole groups of answers to a prompt, as TRL does."""
    rows = recipe.batch_size * recipe.gradient_accumulation
    if recipe.num_generations is not None and rows % recipe.num_generations:
        raise UsageError(
            f"the {rows} sequences of an update (`batch_size` times `gradient_accumulation`) are not divisible by "
            f"`num_generations={recipe.num_generations}`; choose them so that they are."
        )


def prepare_stage(model: Any, recipe: Recipe) -> None:
    """Set a model up as TRL's trainers do, before checkpointing is switched on.

    The reference is loaded, dropout is 0 (but in LLaMA-Factory's reward training), and the embeddings' output requires
    gradients where an adapter is checkpointed, which PEFT's models need for it.
    """
    if find_reference(model, recipe) is Reference.MODEL:
        keep_second_model(model)
    if not has_value_head(recipe):
        disable_dropout(model)
    if recipe.gradient_checkpointing and hasattr(model, "disable_adapter"):
        base_model(model).enable_input_require_grads()


def run_stage(
    model: nn.Module,
    batch: MutableMapping[str, Any],
    optimizer: torch.optim.Optimizer,
    on_phase: OnPhase,
    recipe: Recipe,
    *,
    steps: int,
    total: torch.Tensor | None = None,
) -> tuple[Any, ...]:
    """Run the updates of a stage; return what the loop still holds when the last one is over."""
    passes = Passes(model, recipe, on_phase, find_device(batch, model))
    how = _make_loss(model, recipe, passes)
    held = run_trainer_steps(
        model,
        batch,
        optimizer,
        passes.enter,
        steps=steps,
        max_grad_norm=recipe.max_grad_norm,
        gradient_accumulation=recipe.gradient_accumulation,
        mixed_precision=str(recipe.mixed_precision),
        how=how,
        total=total,
    )
    return *held, how  # which has the rows that GRPO generated


def find_stage_loss(recipe: Recipe) -> type[StageLoss]:
    """Return the loss of the stage of a recipe."""
    return _LOSSES[str(recipe.stage), str(recipe.loss)]


def _make_loss(model: Any, recipe: Recipe, passes: Passes) -> StageLoss:
    """Return the loss of a stage, with its head on the model."""
    make = find_stage_loss(recipe)
    if recipe.loss == LossName.FUSED:
        add_fused_head(base_model(model), make.outputs)
        if (second := find_second_model(model)) is not None:
            add_fused_head(second)
    return make(passes, find_reference(model, recipe))
