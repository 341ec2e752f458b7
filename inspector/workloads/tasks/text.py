"""Tasks of text alone."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from inspector.records.recipe import Recipe
from inspector.workloads.inputs import BatchError, Input, Inputs
from inspector.workloads.tasks.registry import has_own_loss, list_arguments, make_mask, register

__all__ = ["make_ending_ids"]

# Endings to choose from, as in SWAG (examples/pytorch/multiple-choice of transformers).
_CHOICES = 4
_IGNORED = -100


def make_ending_ids(ids: Input, end: int) -> Input:
    """Return ids of rows that each end with a token."""
    return Input(shape=ids.shape, make=functools.partial(_end_rows, ids.shape, ids.value, end))


@register("ForMultipleChoice", main=("input_ids",))
def _make_choices(_model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make a row for each choice, with a mask as DataCollatorForMultipleChoice sends it, and which one is right."""
    rows, length = ids.shape
    shape = (rows, _CHOICES, length)
    mask = Input(shape=shape, make=functools.partial(_mask_choices, shape, padded=bool(recipe.padding)))
    return {
        "input_ids": Input(shape=shape, value=ids.value),
        "attention_mask": mask,
        "labels": Input(shape=(rows,)),
    }


@register("DoubleHeadsModel", main=("input_ids",))
def _make_two_heads(_model: Any, _recipe: Recipe, ids: Input) -> Inputs:
    """Make a row for each choice, the tokens that follow, where each row ends and which one is right."""
    rows, length = ids.shape
    of_choices = Input(shape=(rows, _CHOICES, length), value=ids.value)
    return {
        "input_ids": of_choices,
        "mc_token_ids": Input(shape=(rows, _CHOICES), value=length - 1),
        "labels": of_choices,
        "mc_labels": Input(shape=(rows,)),
    }


@register("ForNextSentencePrediction", main=("input_ids",))
def _make_next_sentences(_model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make pairs of sentences, and whether the second one follows."""
    return {"input_ids": ids, **make_mask(recipe, ids), "labels": Input(shape=ids.shape[:1])}


@register("ForPreTraining", main=("input_ids",))
def _make_pretraining(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make masked tokens, and the order of two sentences where the class learns that."""
    arguments = list_arguments(model)
    if "labels" not in arguments or "visual_embeds" in arguments or "visual_feats" in arguments:
        raise BatchError(f"which batch {type(model).__name__} trains on is not known here")
    order = [name for name in ("next_sentence_label", "sentence_order_label") if name in arguments]
    return {
        "input_ids": ids,
        **make_mask(recipe, ids),
        "labels": Input(shape=ids.shape),
        **{name: Input(shape=ids.shape[:1]) for name in order},
    }


@register("ForQuestionAnsweringSimple", main=("input_ids",))
def _make_spans(_model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make ids, and where each sequence's answer starts and ends."""
    position = Input(shape=ids.shape[:1])
    return {"input_ids": ids, **make_mask(recipe, ids), "start_positions": position, "end_positions": position}


@register(
    *("GenerationDecoder", "ModelWithLMHead", "ForCausalImageModeling", "NemotronH_Omni_Reasoning_V3"),
    main=("input_ids",),
)
def _make_following_tokens(_model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make ids, and labels of the same length."""
    labels = dataclasses.replace(ids, last=_IGNORED if recipe.padding else None)
    return {"input_ids": ids, "labels": labels, **make_mask(recipe, ids)}


@register("ForImageClassification", main=("input_ids",))
def _make_row_labels(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make ids of what stands for the pixels of an image, and a class of each row."""
    if not has_own_loss(model):
        raise BatchError(f"{type(model).__name__} has no loss in transformers")
    return {"input_ids": ids, **make_mask(recipe, ids), "labels": Input(shape=ids.shape[:1])}


@register("ForRetrieval", main=("input_ids",))
def _make_late_interactions(model: Any, _recipe: Recipe, _ids: Input) -> Inputs:
    """Refuse models of a vector for each token, whose losses are in packages of their own."""
    raise BatchError(f"{type(model).__name__} has no loss in transformers")


@register("ForMaskedLM", main=("inputs",))
def _make_masked_inputs(model: Any, _recipe: Recipe, ids: Input) -> Inputs:
    """Make rows of all positions, as many as Perceiver's decoder asks for, under its name for what it takes."""
    ids = dataclasses.replace(ids, shape=(ids.shape[0], model.config.max_position_embeddings))
    return {"inputs": ids, "labels": ids}


@register("ForSequenceClassification", main=("inputs",))
def _make_row_labels_of_inputs(_model: Any, _recipe: Recipe, ids: Input) -> Inputs:
    """Make tokens under the same name, and a class of each row."""
    return {"inputs": ids, "labels": Input(shape=ids.shape[:1])}


def _end_rows(shape: tuple[int, ...], token: int, end: int) -> Tensor:
    """Return rows of one token with another at the end."""
    rows = torch.full(shape, token, dtype=torch.int64)
    rows[:, -1] = end
    return rows


def _mask_choices(shape: tuple[int, ...], *, padded: bool) -> Tensor:
    """Return a mask of choices, of which the last one is padded."""
    mask = torch.ones(shape, dtype=torch.int64)
    if padded:
        mask[-1, -1, -1] = 0
    return mask
