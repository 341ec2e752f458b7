"""Images of their own shape, cut into patches in rows of one length (NaFlex): a mask and a grid say what is image.

Source: siglip2/image_processing_siglip2.py. The largest grid of whole patches that keeps the shape of the image is
taken, and the rest of the row is padding.
"""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any

import torch

from inspector.records.recipe import Recipe
from inspector.records.steps.media import ASSUMED_SIZE, parse_image_size
from inspector.workloads.inputs import Input, begin_rows
from inspector.workloads.media.images import make_plain_images

__all__ = ["fit_patches", "make_plain_inputs"]

# Patches of a row (Siglip2ImageProcessor, `max_num_patches`), and how finely the scale is searched for.
_PATCHES = 256
_FINENESS = 1e-5


def make_plain_inputs(model: Any, recipe: Recipe) -> dict[str, Input]:
    """Return the images of a model that takes one for each row, or one alone, with what tells their shapes."""
    if "spatial_shapes" not in inspect.signature(type(model).forward).parameters:
        return {"pixel_values": make_plain_images(model, recipe)}
    settings = getattr(model.config, "processor_settings", None) or {}
    vision = getattr(model.config, "vision_config", None) or model.config
    patch, most = int(vision.patch_size), int(settings.get("max_num_patches") or _PATCHES)
    width, height = ASSUMED_SIZE if recipe.image_size is None else parse_image_size(recipe.image_size)
    grid, rows = fit_patches((height, width), patch, most), recipe.batch_size
    is_image = functools.partial(begin_rows, (rows, most), 0, 1, math.prod(grid))
    return {
        "pixel_values": Input(shape=(rows, most, patch * patch * vision.num_channels), dtype=torch.float32),
        "pixel_attention_mask": Input(shape=(rows, most), dtype=torch.int32, make=lambda: is_image().to(torch.int32)),
        "spatial_shapes": Input(shape=(rows, 2), make=lambda: torch.tensor([grid] * rows)),
    }


def fit_patches(size: tuple[int, int], patch: int, most: int) -> tuple[int, int]:
    """Return rows and columns of patches of an image of (height, width) (`get_image_size_for_max_num_patches`)."""

    def count(scale: float) -> tuple[int, int]:
        rows, columns = (max(math.ceil(side * scale / patch), 1) for side in size)
        return rows, columns

    low, high = _FINENESS / 10, 100.0
    while high - low >= _FINENESS:
        middle = (low + high) / 2
        if math.prod(count(middle)) <= most:
            low = middle
        else:
            high = middle
    return count(low)
