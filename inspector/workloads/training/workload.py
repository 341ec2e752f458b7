"""A training step: loading and two updates, because the first one has no optimizer state yet."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from inspector.errors import UsageError
from inspector.hardware.platform import Platform
from inspector.model.adapter.peft_names import find_adapted_layers
from inspector.model.build import BuiltModel
from inspector.records.memory import Unaccounted
from inspector.records.recipe import Recipe
from inspector.records.steps.optimizers import parse_optim_args
from inspector.records.tape import WorkloadInfo
from inspector.workloads.attention import settle_attention, settle_implementation
from inspector.workloads.base import NotTraceableError, OnPhase, RunFacts, base_model
from inspector.workloads.batch import find_media, is_bare_encoder, make_batch_inputs
from inspector.workloads.diffusion.facts import find_encoders, settle_denoising
from inspector.workloads.inputs import BatchError, Inputs
from inspector.workloads.kernels.scans import check_kernels, explain_long_scan
from inspector.workloads.limits import bound_sizes, lengthen_rows
from inspector.workloads.media.rows import Media
from inspector.workloads.notices import describe_inputs, find_block_shape, find_notices
from inspector.workloads.packed import find_packed_unaccounted
from inspector.workloads.packed_rows import make_packed_inputs
from inspector.workloads.quantized_load import is_quantized
from inspector.workloads.registry import TRAINING
from inspector.workloads.tasks.adapters import add_adapter_inputs
from inspector.workloads.training.checkpointing import add_noise, enable_checkpointing
from inspector.workloads.training.contrastive import find_pair_notices
from inspector.workloads.training.lm_losses.installed import make_installed_loss, use_installed_kernels
from inspector.workloads.training.lm_losses.registry import (
    list_unaccounted,
    make_loss,
    settle_loss,
    use_layer_kernels,
)
from inspector.workloads.training.lm_losses.releases import find_release_notices
from inspector.workloads.training.loops import find_device, run_plain_steps, run_trainer_steps
from inspector.workloads.training.low_rank import check_low_rank, find_low_rank_unaccounted
from inspector.workloads.training.offloading import COPY_STREAM, keep_activations
from inspector.workloads.training.optimizers import build_optimizer, count_managed_bytes, list_state_tensors
from inspector.workloads.training.sentence_modules import add_sentence_modules
from inspector.workloads.training.stages.batches import make_stage_inputs
from inspector.workloads.training.stages.facts import describe_rows, find_stage_unaccounted
from inspector.workloads.training.stages.passes import find_second_model
from inspector.workloads.training.stages.run import prepare_stage, run_stage, settle_stage
from inspector.workloads.unaccounted import find_unaccounted

__all__ = ["Training"]

# torch says it in two parts: a warning ("None of the inputs have requires_grad=True") and the failure of backward().
_NO_INPUT_REQUIRES_GRAD = (
    "reentrant checkpointing needs an input of the first block that requires gradients, and none does, so that nothing "
    "would train; drop `use_reentrant`."
)
# Stands for the names of routers.
_ROUTERS = "[...]"
_FLOAT32_INPUTS = "as a real step does: its inputs are float32; use `dtype=float32` or `mixed_precision=bf16`"
# What stops a real step in the same way, and what to do then.
_ADVICE = {
    "Input type (float) and bias type": _FLOAT32_INPUTS,
    "expected scalar type torch.float32 but found": _FLOAT32_INPUTS,
    "the same dtype, but got: float32 !=": _FLOAT32_INPUTS,
    "'tuple' object has no attribute 'dtype'": "as a real step does: an adapter is on a router, which returns a tuple; "
    f'leave it out: `targets="all-linear"` `exclude_targets={_ROUTERS}` (exclude_modules in a PEFT configuration)',
    "if no padding token is defined": "as a real step does: use `batch_size=1`",
    "Expected more than 1 value per channel": "as a real step does: use `batch_size=2`",
    "'loss'": "as a real step does: it returns no loss for such labels",
    "ForCausalLMLoss() missing": "as a real step does: transformers has no loss for this class",
    "Make sure that `context_input_ids` are passed": "as a real step does: it needs a retriever of texts",
    "library but it was not found": "as a real step does here: the package is not installed",
    "output with shape torch.Size([])": "as a real step does: Trainer adds losses to a scalar, and that of this class "
    'is none; use `loop="plain"`',
    "allocations and frees": "trace fewer micro-batches: with `gradient_accumulation=4` the peak lacks only the inputs "
    "of the others",
}


class Training:
    """Forward, backward and update as the loop of the recipe runs them (`loops`)."""

    info: WorkloadInfo = TRAINING
    steps = 2

    def resolve(self, model: Any, recipe: Recipe) -> Recipe:
        """Return the recipe as it runs on `model`; UsageError for arguments that the optimizer does not take."""
        parse_optim_args(recipe.optimizer, recipe.optim_args)
        check_low_rank(model, recipe)
        recipe = settle_denoising(base_model(model), recipe)
        recipe = settle_loss(model, recipe)
        recipe = settle_attention(model, settle_stage(model, recipe))
        check_kernels(base_model(model), recipe)
        recipe = lengthen_rows(model, recipe, self.find_media)
        return bound_sizes(model, recipe, self.make_inputs)

    def check(self, model: Any, recipe: Recipe) -> None:
        """Refuse quantized weights that would have to be trained themselves."""
        base = base_model(model)
        if is_quantized(base) and base is model:
            raise NotTraceableError(
                "quantized weights cannot be trained themselves, and Trainer refuses a model without an adapter on "
                "them: add `peft=LoraOptions(r=16)`"
            )

    def describe(self, model: Any, asked: Recipe, recipe: Recipe, platform: Platform) -> RunFacts:
        """Return the batch, and what a real step takes that is not counted."""
        base = base_model(model)
        inputs, media = self.make_inputs(model, recipe), self.find_media(model, recipe)
        takes_pairs = recipe.stage is None and is_bare_encoder(base)
        return RunFacts(
            inputs=describe_inputs(inputs) or describe_rows(recipe),
            # Rules of thumb know of one forward pass.
            shape=None if takes_pairs or recipe.stage is not None else find_block_shape(model),
            not_accounted=(
                *_find_managed(model, recipe),
                *((COPY_STREAM,) if recipe.offload == "activations" else ()),
                *find_low_rank_unaccounted(recipe),
                *find_stage_unaccounted(recipe),
                *find_encoders(base),
                *find_unaccounted(model, recipe, platform, inputs),
                *list_unaccounted(model, asked, recipe),
                *find_packed_unaccounted(model),
            ),
            notices=(
                *(find_pair_notices(base, recipe) if takes_pairs else ()),
                *find_notices(model, asked, recipe, inputs, media),
                *find_release_notices(recipe),
            ),
            media=None if media is None else media.describe(),
        )

    def prepare(self, model: Any, recipe: Recipe) -> None:
        """Set the model up for training as Trainer does: cache, checkpointing and attention as asked for."""
        base = base_model(model)
        model.train()
        base.config.use_cache = bool(recipe.use_cache)
        settle_implementation(base, recipe)
        if recipe.stage is None and is_bare_encoder(base):
            add_sentence_modules(base)
        if recipe.stage is not None:
            prepare_stage(model, recipe)
        if recipe.gradient_checkpointing:
            enable_checkpointing(base, recipe)
        if recipe.neftune is not None:
            add_noise(base, recipe.neftune)

    def find_companions(self, model: Any) -> Mapping[str, Any]:
        """Return the second model of a stage."""
        second = find_second_model(model)
        return {} if second is None else {"reference": second}

    def make_inputs(self, model: Any, recipe: Recipe) -> Inputs:
        """Return a micro-batch as the usual collator makes it, that of its stage, or the one that packs."""
        if recipe.stage is not None:
            return make_stage_inputs(model, base_model(model), recipe)
        if recipe.packing is not None:
            return make_packed_inputs(base_model(model), recipe)
        return add_adapter_inputs(model, make_batch_inputs(base_model(model), recipe))

    def find_media(self, model: Any, recipe: Recipe) -> Media | None:
        """Return the images, videos or sound of a supervised step; stages and packed rows are of text alone."""
        if recipe.videos and recipe.stage is not None:
            raise BatchError("the batch of such a stage is of text alone here: drop `videos`")
        return None if recipe.stage is not None or recipe.packing is not None else find_media(base_model(model), recipe)

    def make_state(self, model: Any, recipe: Recipe, *, on_gpu: bool) -> torch.optim.Optimizer:
        """Make the optimizer."""
        if not on_gpu:
            return build_optimizer(model, recipe)
        from inspector.workloads.training.real_optimizers import build_real_optimizer  # needs transformers.Trainer

        return build_real_optimizer(model, recipe)

    def list_state(self, state: torch.optim.Optimizer) -> Iterable[Tensor]:
        """Return what the optimizer holds already."""
        return list_state_tensors(state)

    def make_loss_sum(self, device: torch.device, recipe: Recipe) -> Tensor | None:
        """Make Trainer's sum of losses, which is there before the first batch (trainer.py, `_inner_training_loop`)."""
        return torch.zeros((), device=device) if recipe.loop == "trainer" else None

    def run(
        self,
        model: nn.Module,
        batch: MutableMapping[str, Any],
        state: torch.optim.Optimizer,
        on_phase: OnPhase,
        recipe: Recipe,
        loss_sum: Tensor | None = None,
    ) -> tuple[Any, ...]:
        """Run the updates; return what the loop still holds when the last one is over."""
        run = run_plain_steps
        if recipe.loop == "trainer":
            run = functools.partial(run_trainer_steps, total=loss_sum)
        on_gpu = find_device(batch, model).type == "cuda"
        with use_installed_kernels(model, recipe) if on_gpu else use_layer_kernels(model, recipe):
            if recipe.stage is not None:
                return run_stage(model, batch, state, on_phase, recipe, steps=self.steps, total=loss_sum)
            return run(
                model,
                batch,
                state,
                on_phase,
                steps=self.steps,
                max_grad_norm=recipe.max_grad_norm,
                gradient_accumulation=recipe.gradient_accumulation,
                mixed_precision=recipe.mixed_precision,
                how=(make_installed_loss(recipe) if on_gpu else None) or make_loss(recipe),
                around=keep_activations(model, recipe),
            )

    def explain_stop(self, model: BuiltModel, recipe: Recipe, error: Exception) -> str:
        """Return what to do where a real step stops in the same way."""
        if recipe.use_reentrant and "does not require grad" in str(error):
            raise UsageError(_NO_INPUT_REQUIRES_GRAD) from error
        too_long = explain_long_scan(base_model(model.model), recipe, error)
        if too_long is not None:
            return f", {too_long}"
        advice = next((f", {advice}" for words, advice in _ADVICE.items() if words in str(error)), "")
        return advice.replace(_ROUTERS, _name_routers(model.model))


def _name_routers(model: Any) -> str:
    """Return the names of modules with an adapter whose class is a linear layer and more, as a list in JSON."""
    found = find_adapted_layers(model) if isinstance(model, PeftModel) else []
    special = {name.rpartition(".")[2] for name, layer in found if type(layer.get_base_layer()) is not nn.Linear}
    return json.dumps(sorted(special)) if special else _ROUTERS


def _find_managed(model: Any, recipe: Recipe) -> Iterator[Unaccounted]:
    """Yield the state of a paged optimizer, which the allocator of torch does not hold."""
    managed = count_managed_bytes(model, recipe)
    if managed:
        why = f"{managed:,} bytes that the driver moves between host and GPU, outside the allocator of torch"
        yield Unaccounted(what="paged state of the optimizer", why=why)
