"""Tasks of text and images whose tokens have no placeholders: the classes put the image before the text themselves."""

from __future__ import annotations

import functools
from typing import Any

import torch

from inspector.records.recipe import Recipe
from inspector.workloads.inputs import BatchError, Input, Inputs, begin_rows
from inspector.workloads.media.images import make_plain_images
from inspector.workloads.tasks.registry import list_arguments, make_mask, register
from inspector.workloads.tasks.video import show

__all__: list[str] = []

# Patches of a page that Pix2Struct takes at most (image_processing_pix2struct.py, `max_patches`), each with its row and
# column before its pixels.
_PATCHES = 2048
_PLACE = 2
# Which part of FLAVA's tokens is masked, and how many patches of its images are, of how many in a row
# (flava/image_processing_flava.py).
_MASKED_TOKENS = 0.15
_MASKED_PATCHES = 75 / 196
# Pixels a side of what a codebook turns into one code.
_CODE_SIDE = 8
# Frames of a video (modeling_instructblipvideo.py: "video has frames=4 always").
_FRAMES = 4
# Tokens of a question on an image.
_QUESTION = 64
_IGNORED = -100


@register(
    *("Blip2ForConditionalGeneration", "InstructBlipForConditionalGeneration"),
    "InstructBlipVideoForConditionalGeneration",
    main=("pixel_values",),
)
def _make_queried_captions(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make images or videos, and rows that begin with a placeholder for each query that an image is asked by."""
    config, images = model.config, make_plain_images(model, recipe)
    frames = _FRAMES if "Video" in type(model).__name__ else None
    names = [f"{'image' if frames is None else 'video'}_token_{end}" for end in ("index", "id")]
    token = next((value for value in (getattr(config, name, None) for name in names) if isinstance(value, int)), None)
    if token is None:
        raise BatchError(f"{type(model).__name__} takes no image: its config names no token that stands for one")
    count = int(config.num_query_tokens) * (frames or 1)
    queries = {}
    if "qformer_input_ids" in list_arguments(model):
        queries["qformer_input_ids"] = Input(shape=(ids.shape[0], min(ids.shape[1], _QUESTION)), value=ids.value)
    return {
        "pixel_values": images if frames is None else show(images, frames),
        **queries,
        "input_ids": Input(shape=ids.shape, make=functools.partial(begin_rows, ids.shape, ids.value, token, count)),
        "attention_mask": Input(shape=ids.shape, value=1, last=0 if recipe.padding else None),
        "labels": Input(shape=ids.shape, make=functools.partial(begin_rows, ids.shape, ids.value, _IGNORED, count)),
    }


@register("Kosmos2ForConditionalGeneration", main=("pixel_values",))
def _make_grounded_captions(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make images, and rows with the places that the image's latents take."""
    marks = functools.partial(begin_rows, ids.shape, 0, 1, int(model.config.latent_query_num))
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
    shape = (recipe.batch_size, _PATCHES, _PLACE + model.config.vision_config.patch_embed_hidden_size)
    return {
        "flattened_patches": Input(shape=shape, dtype=torch.float32, value=1),
        "attention_mask": Input(shape=shape[:2], dtype=torch.float32, value=1, is_read=True),
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


@register(
    *("ViltForMaskedLM", "ViltForTokenClassification", "ViltForQuestionAnswering", "BridgeTowerForMaskedLM"),
    main=("input_ids",),
)
def _make_pictured_text(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make texts with an image each, which part of it is image, and labels of tokens, or how well each answer fits."""
    images = make_plain_images(model, recipe)
    labels = ids if type(model).__name__.endswith("MaskedLM") else Input(shape=ids.shape)
    if type(model).__name__.endswith("QuestionAnswering"):
        labels = Input(shape=(recipe.batch_size, model.config.num_labels), dtype=torch.float32)
    return {
        "input_ids": ids,
        "attention_mask": Input(shape=ids.shape, value=1, last=0 if recipe.padding else None),
        "pixel_values": images,
        "pixel_mask": Input(shape=(images.shape[0], *images.shape[2:]), value=1, is_read=True),
        "labels": labels,
    }


@register("FlavaForPreTraining", main=("input_ids",))
def _make_masked_pairs(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make texts and images that fit, and the same with a part masked; a codebook says what the masked patches show."""
    images, vision = make_plain_images(model, recipe), model.config.image_config
    side = images.shape[-1] // int(vision.patch_size)
    of_codebook = Input(shape=(recipe.batch_size, 3, side * _CODE_SIDE, side * _CODE_SIDE), dtype=torch.float32)
    patches = (recipe.batch_size, side * side)
    masked = functools.partial(begin_rows, patches, 0, 1, round(side * side * _MASKED_PATCHES))
    tokens = max(round(ids.shape[1] * _MASKED_TOKENS), 1)
    return {
        "input_ids": ids,
        "input_ids_masked": ids,
        "pixel_values": images,
        "codebook_pixel_values": of_codebook,
        "attention_mask": Input(shape=ids.shape, value=1, last=0 if recipe.padding else None),
        "bool_masked_pos": Input(
            shape=(recipe.batch_size, side, side), make=lambda: masked().view(recipe.batch_size, side, side)
        ),
        "mlm_labels": Input(
            shape=ids.shape, make=functools.partial(begin_rows, ids.shape, _IGNORED, ids.value, tokens)
        ),
        "itm_labels": Input(shape=(recipe.batch_size,), value=1),
        "return_loss": True,
    }


@register("Molmo2ForConditionalGeneration", main=("input_ids",))
def _make_typed_text(_model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make text alone, of which the class wants to be told that none of it is an image's."""
    return {"input_ids": ids, **make_mask(recipe, ids), "mm_token_type_ids": Input(shape=ids.shape), "labels": ids}


@register("GlmImageForConditionalGeneration", main=("input_ids",))
def _make_painted_text(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make text, where the loss takes as many logits as the head makes (modeling_glm_image.py, 5.23: it does not)."""
    text = model.config.text_config
    if text.vocab_size != text.vision_vocab_size:
        raise BatchError(
            f"{type(model).__name__} stops in its loss, as a real step does: that takes {text.vocab_size:,} logits "
            f"of a token, and the head makes {text.vision_vocab_size:,}"
        )
    return {"input_ids": ids, **make_mask(recipe, ids), "labels": ids}


@register("ForImageAndTextRetrieval", "ForImagesAndTextClassification", main=("input_ids",))
def _make_fitting_texts(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make texts and images, as many to a text as the class compares, and whether they fit."""
    images = make_plain_images(model, recipe)
    count = getattr(model.config, "num_images", None)
    if isinstance(count, int) and count > 1:
        images = Input(shape=(images.shape[0], count, *images.shape[1:]), dtype=torch.float32)
    mask = {}
    if "pixel_mask" in list_arguments(model):
        mask["pixel_mask"] = Input(shape=(*images.shape[:-3], *images.shape[-2:]), value=1, is_read=True)
    return {"input_ids": ids, "pixel_values": images, **mask, "labels": Input(shape=(recipe.batch_size,))}
