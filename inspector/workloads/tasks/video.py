"""Tasks of videos beside text: when it is shown, and which text belongs to which video."""

from __future__ import annotations

from typing import Any

import torch

from inspector.records.recipe import Recipe
from inspector.workloads.inputs import BatchError, Input, Inputs
from inspector.workloads.media.images import make_plain_images
from inspector.workloads.tasks.registry import make_mask, register

__all__ = ["make_frames", "show"]


def make_frames(model: Any, recipe: Recipe) -> Input:
    """Return videos of as many frames as the configuration says."""
    config = getattr(model.config, "vision_config", None) or model.config
    frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
    if not isinstance(frames, int):
        raise BatchError(f"how many frames a video of {type(model).__name__} has is not known here")
    return show(make_plain_images(model, recipe), frames)


@register("VideoPrismClipModel", main=("pixel_values_videos",))
def _make_pairs(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make pairs of text and video, whose loss is asked for."""
    return {
        "pixel_values_videos": make_frames(model, recipe),
        "input_ids": ids,
        **make_mask(recipe, ids),
        "return_loss": True,
    }


@register("TvpForVideoGrounding", main=("input_ids",))
def _make_moments(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make texts, videos, and how long each of those is, with the begin and the end of what the text means."""
    size = int(model.config.max_img_size)
    frames = Input(shape=(recipe.batch_size, int(model.config.num_frames), 3, size, size), dtype=torch.float32)
    seconds, begin, end = (Input(shape=(recipe.batch_size,), dtype=torch.float32, value=value) for value in (1, 0, 1))
    return {"input_ids": ids, "pixel_values": frames, **make_mask(recipe, ids), "labels": (seconds, begin, end)}


def show(images: Input, frames: int) -> Input:
    """Return videos of so many frames of an image's size."""
    return Input(shape=(images.shape[0], frames, *images.shape[1:]), dtype=torch.float32)
