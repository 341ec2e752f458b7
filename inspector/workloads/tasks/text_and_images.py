"""Tasks of text and images whose tokens have no placeholders: the classes put the image before the text themselves."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from inspector.records.recipe import Recipe
from inspector.workloads.inputs import BatchError, Input, Inputs
from inspector.workloads.media.images import make_plain_images
from inspector.workloads.tasks.registry import list_arguments, make_mask, register

__all__: list[str] = []

# Patches of a page that Pix2Struct takes at most (image_processing_pix2struct.py, `max_patches`), each with its row and
# column before its pixels.
_PATCHES = 2048
_PLACE = 2
# Words that DETR-like regions are told by, in models of text and regions (their detectors keep 36).
_REGIONS = 36
# Tokens of a question on an image.
_QUESTION = 64
_IGNORED = -100


@register("Blip2ForConditionalGeneration", "InstructBlipForConditionalGeneration", main=("pixel_values",))
def _make_queried_captions(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make images, and rows that begin with a placeholder for each query that the image is asked by."""
    config = model.config
    token = getattr(config, "image_token_index", None)
    token = getattr(config, "image_token_id", None) if token is None else token
    if not isinstance(token, int):
        raise BatchError(f"which token stands for an image in {type(model).__name__} is not known here")
    count = int(config.num_query_tokens)
    queries = {}
    if "qformer_input_ids" in list_arguments(model):
        queries["qformer_input_ids"] = Input(shape=(ids.shape[0], min(ids.shape[1], _QUESTION)), value=ids.value)
    return {
        "pixel_values": make_plain_images(model, recipe),
        **queries,
        "input_ids": Input(shape=ids.shape, make=functools.partial(_begin_rows, ids.shape, ids.value, token, count)),
        "attention_mask": Input(shape=ids.shape, value=1, last=0 if recipe.padding else None),
        "labels": Input(shape=ids.shape, make=functools.partial(_begin_rows, ids.shape, ids.value, _IGNORED, count)),
    }


@register("Kosmos2ForConditionalGeneration", main=("pixel_values",))
def _make_grounded_captions(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make images, and rows with the places that the image's latents take."""
    marks = functools.partial(_begin_rows, ids.shape, 0, 1, int(model.config.latent_query_num))
    return {
        "pixel_values": make_plain_images(model, recipe),
        "input_ids": ids,
        "image_embeds_position_mask": Input(shape=ids.shape, make=marks),
        "labels": ids,
    }


@register("IdeficsForVisionText2Text", main=("input_ids",))
def _make_attended_images(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make rows of text, an image each, and which token sees it."""
    images = make_plain_images(model, recipe)
    return {
        "input_ids": ids,
        "attention_mask": Input(shape=ids.shape, value=1, last=0 if recipe.padding else None),
        "pixel_values": Input(shape=(images.shape[0], 1, *images.shape[1:]), dtype=torch.float32),
        "image_attention_mask": Input(shape=(*ids.shape, 1), value=1),
        "labels": ids,
    }


@register("BlipForConditionalGeneration", main=("pixel_values",))
def _make_captions(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make images and their captions."""
    return {"pixel_values": make_plain_images(model, recipe), "input_ids": ids, "labels": ids}


@register("ForConditionalGeneration", main=("flattened_patches",))
def _make_patches_to_text(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make pages as patches with their places, and what stands on them."""
    vision = model.config.vision_config
    shape = (recipe.batch_size, _PATCHES, _PLACE + 3 * vision.patch_size**2)
    return {
        "flattened_patches": Input(shape=shape, dtype=torch.float32, value=1),
        "attention_mask": Input(shape=shape[:2], dtype=torch.float32, value=1),
        "labels": ids,
    }


@register("BlipForQuestionAnswering", main=("input_ids", "pixel_values"))
def _make_questions(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make images, questions on them, and answers."""
    return {"input_ids": ids, "pixel_values": make_plain_images(model, recipe), **make_mask(recipe, ids), "labels": ids}


@register("GitForCausalLM", main=("input_ids",))
def _make_prefixed_captions(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make images, whose patches the class puts before the tokens, and captions."""
    return {"input_ids": ids, "pixel_values": make_plain_images(model, recipe), "labels": ids}


@register("CLIPSegForImageSegmentation", main=("input_ids",))
def _make_prompted_masks(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make prompts, images, and which of their pixels each prompt means."""
    images = make_plain_images(model, recipe)
    return {
        "input_ids": ids,
        "pixel_values": images,
        "labels": Input(shape=(images.shape[0], *images.shape[2:]), dtype=torch.float32),
    }


@register("ForImageAndTextRetrieval", "ForImagesAndTextClassification", main=("input_ids",))
def _make_fitting_texts(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make texts and images, as many to a text as the class compares, and whether they fit."""
    images = make_plain_images(model, recipe)
    count = getattr(model.config, "num_images", None)
    if isinstance(count, int) and count > 1:
        images = Input(shape=(images.shape[0], count, *images.shape[1:]), dtype=torch.float32)
    return {"input_ids": ids, "pixel_values": images, "labels": Input(shape=(recipe.batch_size,))}


@register("VisualBertForVisualReasoning", "VisualBertForQuestionAnswering", main=("input_ids",))
def _make_regions(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make texts and the features of regions of an image, and a class of each pair."""
    shape = (recipe.batch_size, _REGIONS)
    is_answer = type(model).__name__.endswith("QuestionAnswering")
    labels = Input(shape=(recipe.batch_size, model.config.num_labels), dtype=torch.float32)
    return {
        "input_ids": ids,
        "attention_mask": Input(shape=ids.shape, value=1),
        "visual_embeds": Input(shape=(*shape, model.config.visual_embedding_dim), dtype=torch.float32),
        "visual_attention_mask": Input(shape=shape, dtype=torch.float32, value=1),
        "labels": labels if is_answer else Input(shape=(recipe.batch_size,)),
    }


def _begin_rows(shape: tuple[int, ...], rest: int, first: int, count: int) -> Tensor:
    """Return rows of one number that begin with so many of another."""
    rows = torch.full(shape, rest, dtype=torch.int64)
    rows[:, :count] = first
    return rows
