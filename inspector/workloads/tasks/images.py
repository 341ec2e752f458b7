"""Tasks of images, and of video alone."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from inspector.records.recipe import Recipe
from inspector.workloads.inputs import BatchError, Input, Inputs
from inspector.workloads.media.images import make_plain_images
from inspector.workloads.tasks.registry import has_own_loss, list_arguments, register
from inspector.workloads.tasks.video import make_frames

__all__: list[str] = []

# Objects on an image: COCO has some 7.
_OBJECTS = 7
# Tokens by which Grounding DINO tells phrases apart (modeling_grounding_dino.py, SPECIAL_TOKENS).
_BEGIN, _END, _FULL_STOP = 101, 102, 1012
# What detectors that name no size are trained with (rt_detr/image_processing_rt_detr.py).
_DETECTED = (640, 640)


@register("ForMaskedImageModeling", main=("pixel_values",))
def _make_masked_images(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make images and which of their patches are masked."""
    images = make_plain_images(model, recipe)
    patch = getattr(model.config, "patch_size", None)
    if not isinstance(patch, int):
        raise BatchError(f"how large the patches of {type(model).__name__} are is not known here")
    patches = (images.shape[-2] // patch) * (images.shape[-1] // patch)
    # BEiT learns the token of each masked patch, others the pixels themselves.
    tokens = {"labels": Input(shape=(recipe.batch_size * patches,))} if "labels" in list_arguments(model) else {}
    return {
        "pixel_values": images,
        "bool_masked_pos": Input(shape=(recipe.batch_size, patches), dtype=torch.bool, value=1),
        **tokens,
    }


@register("ForVideoClassification", main=("pixel_values",))
def _make_videos(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make videos of as many frames as the configuration says, and a class of each."""
    return {"pixel_values": make_frames(model, recipe), "labels": Input(shape=(recipe.batch_size,))}


@register("ForVideoClassification", main=("pixel_values_videos",))
def _make_clips(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make videos under the name that some classes have for them, and a class of each."""
    return {"pixel_values_videos": make_frames(model, recipe), "labels": Input(shape=(recipe.batch_size,))}


@register("VideoMAEForPreTraining", main=("pixel_values",))
def _make_masked_videos(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make videos of which nine patches in ten are masked, as many in each (VideoMAE's masking ratio)."""
    config, videos = model.config, make_frames(model, recipe)
    size, tube = config.patch_size, config.tubelet_size
    patches = (videos.shape[1] // tube) * (videos.shape[-2] // size) * (videos.shape[-1] // size)
    shape = (recipe.batch_size, patches)
    mask = Input(shape=shape, dtype=torch.bool, make=functools.partial(_mask_most, shape))
    return {"pixel_values": videos, "bool_masked_pos": mask}


@register("ForDepthEstimation", main=("pixel_values",))
def _make_depths(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make images and how far away each of their pixels is."""
    images = make_plain_images(model, recipe)
    if not has_own_loss(model):
        raise BatchError(f"{type(model).__name__} has no loss in transformers")
    depths = Input(shape=(images.shape[0], *images.shape[2:]), dtype=torch.float32, value=1, is_read=True)
    return {"pixel_values": images, "labels": depths}


@register(
    *("ForImageClassificationLearned", "ForImageClassificationFourier", "ForImageClassificationConvProcessing"),
    main=("inputs",),
)
def _make_inputs_of_images(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make images of the size that Perceiver's published models have, under its name, and a class of each."""
    return {"inputs": make_plain_images(model, recipe), "labels": Input(shape=(recipe.batch_size,))}


@register("VisionEncoderDecoderModel", "PPFormulaNetForConditionalGeneration", main=("pixel_values",))
def _make_images_to_text(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make images, and the tokens of what stands on them; PP-FormulaNet does not shift them for its decoder."""
    decoder = {} if hasattr(model, "prepare_decoder_input_ids_from_labels") else {"decoder_input_ids": ids}
    return {"pixel_values": make_plain_images(model, recipe), **decoder, "labels": ids}


@register("SegGptForImageSegmentation", main=("pixel_values",))
def _make_prompted_segments(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make images, others with their masks as prompts, and the masks to paint; the class puts one above the other."""
    images = make_plain_images(model, recipe)
    rows, channels, height, width = images.shape
    images = Input(shape=(rows, channels, height // 2, width), dtype=torch.float32)
    names = ("pixel_values", "prompt_pixel_values", "prompt_masks", "labels")
    return dict.fromkeys(names, images)


@register("ForObjectDetection", "ForSegmentation", main=("pixel_values",))
def _make_objects(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make images, and for each of them a class and a box of every object, with its mask where that is learned."""
    arguments = list_arguments(model)
    images = make_plain_images(model, recipe, usual=_fit_windows(model.config))
    if "labels" not in arguments or not has_own_loss(model):
        raise BatchError(f"{type(model).__name__} has no loss in transformers")
    of_text = {}
    if "input_ids" in arguments:  # what is looked for, in words
        longest = getattr(model.config, "max_text_len", None) or ids.shape[1]
        shape = (ids.shape[0], min(ids.shape[1], longest))
        of_text = {"input_ids": Input(shape=shape, make=functools.partial(_write_phrases, shape, ids.value))}
    of_objects = {
        "class_labels": Input(shape=(_OBJECTS,)),
        "boxes": Input(shape=(_OBJECTS, 4), dtype=torch.float32),
    }
    if "Segmentation" in type(model).__name__:
        of_objects["masks"] = Input(shape=(_OBJECTS, *images.shape[2:]), dtype=torch.float32)
    mask = {"pixel_mask": Input(shape=(images.shape[0], *images.shape[2:]), value=1)}
    return {
        "pixel_values": images,
        **of_text,
        **(mask if "pixel_mask" in arguments else {}),
        "labels": (of_objects,) * recipe.batch_size,
    }


@register("ForUniversalSegmentation", "ForInstanceSegmentation", main=("pixel_values",))
def _make_segments(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make images, and for each of them the masks of its segments with their classes."""
    if "labels" in list_arguments(model):
        return _make_objects(model, recipe, ids)
    if "mask_labels" not in list_arguments(model):
        raise BatchError(f"which batch {type(model).__name__} trains on is not known here")
    images = make_plain_images(model, recipe)
    masks = Input(shape=(_OBJECTS, *images.shape[2:]), dtype=torch.float32)
    of_task = {}
    if "task_inputs" in list_arguments(model):  # OneFormer: what is asked for, and what is there, in words
        length = model.config.task_seq_len
        texts = model.config.num_queries - model.config.text_encoder_n_ctx
        of_task = {
            "task_inputs": Input(shape=(recipe.batch_size, length), value=1),
            "text_inputs": Input(shape=(recipe.batch_size, texts, length), value=1),
        }
    return {
        "pixel_values": images,
        **of_task,
        "mask_labels": (masks,) * recipe.batch_size,
        "class_labels": (Input(shape=(_OBJECTS,)),) * recipe.batch_size,
    }


def _fit_windows(config: Any) -> tuple[int, int]:
    """Return the usual size, cut to what the windows of a backbone divide."""
    backbone = getattr(config, "backbone_config", None)
    step = int(getattr(backbone, "patch_size", 1) or 1) * int(getattr(backbone, "num_windows", 1) or 1)
    height, width = _DETECTED
    return height - height % step, width - width % step


def _write_phrases(shape: tuple[int, int], word: int) -> Tensor:
    """Return rows of phrases of one word, each with a full stop behind it, between the tokens that BERT's rows have."""
    rows = torch.full(shape, word or 1, dtype=torch.int64)  # 0 is padding, which parts phrases too
    rows[:, 2::2] = _FULL_STOP
    rows[:, 0], rows[:, -1] = _BEGIN, _END
    return rows


def _mask_most(shape: tuple[int, int]) -> Tensor:
    """Return a mask of all but the first tenth of each row."""
    mask = torch.ones(shape, dtype=torch.bool)
    mask[:, : shape[1] // 10] = False
    return mask
