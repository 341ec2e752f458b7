"""Generation: the prompt goes through the model at once, then each token alone, beside a cache of all before it.

It is what `model.generate` of transformers does for a first batch: one call, from a model that was just loaded, greedy
or sampling as its generation_config.json says. Sequences run to their full length. What the caller keeps are the ids.

Not covered: beam search and assisted decoding, whose control flow reads values (`records.steps.decoding`); caches that
are offloaded or packed by quanto and HQQ; CUDA graphs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from inspector.errors import UnsupportedModelError, UsageError
from inspector.hardware.platform import Platform
from inspector.model.build import BuiltModel
from inspector.model.skeleton import find_head
from inspector.records.recipe import AdapterState, CacheKind, Recipe, find_prompt_len
from inspector.records.steps.decoding import explain_refusal
from inspector.records.tape import WorkloadInfo
from inspector.workloads.attention import settle_attention, settle_implementation
from inspector.workloads.base import NotTraceableError, OnPhase, RunFacts, base_model
from inspector.workloads.batch import BatchError, Input, Inputs, find_longest_sequence, make_inputs_without_labels
from inspector.workloads.generate.loop import Generation, run_generation
from inspector.workloads.generate.notices import find_generation_notices, find_static_graphs, hears
from inspector.workloads.notices import describe_inputs
from inspector.workloads.precision import MixedPrecision
from inspector.workloads.quantized_load import is_quantized
from inspector.workloads.registry import GENERATE
from inspector.workloads.unaccounted import find_unaccounted

__all__ = ["Generate"]


class Generate:
    """One call of `generate`."""

    info: WorkloadInfo = GENERATE
    steps = 1

    def resolve(self, model: Any, recipe: Recipe) -> Recipe:
        """Return the recipe with the attention that the model has; UsageError where positions do not suffice."""
        base = base_model(model)
        self.check(model, recipe)
        if recipe.adapter is AdapterState.MERGED:
            _check_merging(model)
        refused = explain_refusal(recipe.generation or {})
        if refused is not None:
            raise UnsupportedModelError(f"{refused}.")
        recipe = settle_attention(model, recipe)
        padding = recipe.padding if recipe.padding is not None else recipe.batch_size > 1
        recipe = dataclasses.replace(recipe, padding=padding)
        try:
            self.make_inputs(model, recipe)
        except BatchError as error:
            raise NotTraceableError(str(error)) from error
        recipe = _settle_prompt(base, recipe)
        longest = find_longest_sequence(base)
        prompt_len = find_prompt_len(recipe)
        has_own_prompt = base.config.is_encoder_decoder and not hears(base)
        length = prompt_len if has_own_prompt else prompt_len + recipe.new_tokens
        if longest is not None and length > longest:
            raise UsageError(
                f"{type(base).__name__} has learned {longest:,} positions, and `prompt_len` {prompt_len:,} with "
                f"`new_tokens` {recipe.new_tokens:,} is more: give less."
            )
        return recipe

    def check(self, model: Any, recipe: Recipe) -> None:
        """Refuse models that generate nothing."""
        base = base_model(model)
        if not (hasattr(base, "can_generate") and base.can_generate()):
            head = find_head(base.config, ("AutoModelForSeq2SeqLM",)) if hasattr(base, "config") else None
            advice = f", as `model_class={head.__name__}`" if head else ""
            raise NotTraceableError(
                f"{type(base).__name__} has no `generate`: name a class with a head for text{advice}"
            )

    def describe(self, model: Any, asked: Recipe, recipe: Recipe, platform: Platform) -> RunFacts:
        """Return the prompt, and what is not counted."""
        return RunFacts(
            inputs=describe_inputs(self.make_inputs(model, recipe)),
            shape=None,
            not_accounted=(
                *find_static_graphs(recipe),
                *find_unaccounted(model, recipe, platform, self.make_inputs(model, recipe)),
            ),
            notices=tuple(find_generation_notices(model, asked, recipe)),
        )

    def prepare(self, model: Any, recipe: Recipe) -> None:
        """Set the model up for generation."""
        base = base_model(model)
        model.eval()
        base.config.use_cache = recipe.cache is not CacheKind.NONE
        settle_implementation(base, recipe)

    def find_companions(self, model: Any) -> Mapping[str, Any]:
        """Return none."""
        return {}

    def make_inputs(self, model: Any, recipe: Recipe) -> Inputs:
        """Return the prompts as a tokenizer makes them, with their mask: padded on the left, as `generate` wants it."""
        base = base_model(model)
        prompt = dataclasses.replace(recipe, seq_len=find_prompt_len(recipe), padding=False)
        made = make_inputs_without_labels(base, prompt)
        inputs = {name: item for name, item in made.items() if not name.startswith("decoder_")}
        sound = inputs.get("input_features")
        if isinstance(sound, Input):  # as a processor gives it, in the dtype of the weights
            return {"input_features": dataclasses.replace(sound, dtype=base.dtype)}
        ids = inputs.get("input_ids")
        if not isinstance(ids, Input):
            raise BatchError(f"what {type(base).__name__} generates from is not known here")
        pad, is_encoder = 0 if recipe.padding else None, base.config.is_encoder_decoder
        mask = Input(shape=ids.shape, value=1, last=pad if is_encoder else None, first=None if is_encoder else pad)
        return {**inputs, "attention_mask": mask}

    def find_media(self, model: Any, recipe: Recipe) -> None:
        """Return none: prompts are text alone."""

    def make_state(self, model: Any, recipe: Recipe, *, on_gpu: bool) -> Generation:
        """Return what will know the cache."""
        return Generation()

    def list_state(self, state: Generation) -> Iterable[Tensor]:
        """Return the tensors of the cache as they are now."""
        return tuple(state.list_tensors())

    def make_loss_sum(self, device: torch.device, recipe: Recipe) -> None:
        """Make nothing."""

    def run(
        self,
        model: Any,
        batch: Mapping[str, Any],
        state: Generation,
        on_phase: OnPhase,
        recipe: Recipe,
        loss_sum: Any = None,
    ) -> tuple[Any, ...]:
        """Merge the adapter where that is asked for, and generate; the ids are still held."""
        if recipe.adapter is AdapterState.MERGED:
            model = model.merge_and_unload()
        device = next(item.device for item in batch.values() if isinstance(item, Tensor))
        with MixedPrecision(recipe.mixed_precision, device).autocast():
            return run_generation(model, batch, state, on_phase, recipe)

    def explain_stop(self, model: BuiltModel, recipe: Recipe, error: Exception) -> str:
        """Return nothing to add."""
        return ""


def _check_merging(model: Any) -> None:
    """Raise UsageError where there is no adapter to merge, or none that is merged on the GPU alone."""
    if not hasattr(model, "get_base_model"):
        raise UsageError(
            "`adapter=merged` merges an adapter, and there is none: add `peft=LoraOptions(r=16)`, or drop it."
        )
    if not hasattr(model, "merge_and_unload"):
        raise UsageError("`adapter=merged`: PEFT does not merge adapters of this kind; drop it.")
    if is_quantized(base_model(model)):
        raise UsageError(
            "`adapter=merged`: PEFT unpacks packed weights to merge into them, and packs them anew on the CPU; merge "
            "into weights in float, without `quantization`."
        )


def _settle_prompt(base: Any, recipe: Recipe) -> Recipe:
    """Return the recipe with the prompt of the decoder: of a model of sound the one token that it begins with."""
    return dataclasses.replace(recipe, prompt_len=1) if hears(base) else recipe
