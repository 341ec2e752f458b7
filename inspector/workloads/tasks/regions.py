"""Tasks of text and the regions of an image, whose features and places a detector has found before."""

from __future__ import annotations

import functools
from typing import Any

import torch

from inspector.records.recipe import Recipe
from inspector.workloads.inputs import Input, Inputs, Item, begin_rows
from inspector.workloads.tasks.registry import list_arguments, register

__all__: list[str] = []

# Regions of an image that the detectors of LXMERT and VisualBERT keep.
_REGIONS = 36
# Endings to choose from, as in VCR.
_CHOICES = 4
_IGNORED = -100


@register("VisualBertForVisualReasoning", "VisualBertForQuestionAnswering", main=("input_ids",))
def _make_regions(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make texts and the features of regions of an image, and a class of each pair, or how well each answer fits."""
    is_answer = type(model).__name__.endswith("QuestionAnswering")
    labels = Input(shape=(recipe.batch_size, model.config.num_labels), dtype=torch.float32)
    return {
        **_make_seen_text(model, ids, ids.shape[:1]),
        "labels": labels if is_answer else Input(shape=(recipe.batch_size,)),
    }


@register("VisualBertForMultipleChoice", main=("input_ids",))
def _make_seen_choices(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make a text with the regions of its image for each choice, and which one is right."""
    rows, length = ids.shape
    ids = Input(shape=(rows, _CHOICES, length), value=ids.value)
    return {**_make_seen_text(model, ids, (rows, _CHOICES)), "labels": Input(shape=(recipe.batch_size,))}


@register("VisualBertForPreTraining", main=("input_ids",))
def _make_seen_captions(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make captions, whose tokens are masked and regions are none, and whether they fit the image."""
    shape = (ids.shape[0], ids.shape[1] + _REGIONS)
    labels = functools.partial(begin_rows, shape, _IGNORED, ids.value, ids.shape[1])
    return {
        **_make_seen_text(model, ids, ids.shape[:1]),
        "labels": Input(shape=shape, make=labels),
        "sentence_image_labels": Input(shape=(recipe.batch_size,)),
    }


@register("VisualBertForRegionToPhraseAlignment", main=("input_ids",))
def _make_phrases(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make texts, where each phrase ends in them, and how much each region is meant by it."""
    shape = (recipe.batch_size, ids.shape[1] + _REGIONS)
    return {
        **_make_seen_text(model, ids, ids.shape[:1]),
        "region_to_phrase_position": Input(shape=shape),
        "labels": Input(shape=(*shape, _REGIONS), dtype=torch.float32),
    }


@register("LxmertForQuestionAnswering", main=("input_ids",))
def _make_placed_questions(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make questions, the features and boxes of regions, and the answer to each."""
    return {**_make_placed_text(model, ids), "labels": Input(shape=(recipe.batch_size,))}


@register("LxmertForPreTraining", main=("input_ids",))
def _make_placed_captions(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make masked captions, whether they fit, an answer, and what each region shows, with how sure its detector was."""
    config, shape = model.config, (recipe.batch_size, _REGIONS)
    sure = Input(shape=shape, dtype=torch.float32)
    objects: dict[str, tuple[Input, Input]] = {}
    for name, item in {
        "obj": Input(shape=shape),
        "attr": Input(shape=shape),
        "feat": Input(shape=(*shape, config.visual_feat_dim), dtype=torch.float32),
    }.items():
        if getattr(config, f"visual_{name}_loss"):
            objects[name] = (item, sure)
    made: dict[str, Item] = {**_make_placed_text(model, ids), "labels": ids}
    if config.task_obj_predict:
        made["obj_labels"] = objects
    if config.task_matched:
        made["matched_label"] = Input(shape=(recipe.batch_size,))
    if config.task_qa:
        made["ans"] = Input(shape=(recipe.batch_size,))
    return made


def _make_seen_text(model: Any, ids: Input, rows: tuple[int, ...]) -> dict[str, Input]:
    """Return texts with their masks, and the features of regions with theirs."""
    shape = (*rows, _REGIONS)
    return {
        "input_ids": ids,
        "attention_mask": Input(shape=ids.shape, value=1),
        "visual_embeds": Input(shape=(*shape, model.config.visual_embedding_dim), dtype=torch.float32),
        "visual_attention_mask": Input(shape=shape, dtype=torch.float32, value=1),
    }


def _make_placed_text(model: Any, ids: Input) -> dict[str, Input]:
    """Return texts with their masks, and the features of regions with their boxes."""
    shape = (ids.shape[0], _REGIONS)
    mask = {"attention_mask": Input(shape=ids.shape, value=1)} if "attention_mask" in list_arguments(model) else {}
    return {
        "input_ids": ids,
        **mask,
        "visual_feats": Input(shape=(*shape, model.config.visual_feat_dim), dtype=torch.float32),
        "visual_pos": Input(shape=(*shape, model.config.visual_pos_dim), dtype=torch.float32),
    }
