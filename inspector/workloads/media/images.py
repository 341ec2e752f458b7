"""An image as a model's image processor makes it: pixel values, what goes with them, and how many tokens it takes.

A registry by the class of the processor, which preprocessor_config.json names, or transformers' own mapping for the
model's type where there is no such file; sizes come from that file or are the class's defaults. All images of a batch
are equally large. Pixel values are float32, as processors return them.

Not covered: processors that are not named here; such a model is traced with text alone, which the report says.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inspector.compat.transformers import list_image_processors
from inspector.records.recipe import Recipe
from inspector.records.steps.media import parse_image_size
from inspector.workloads.inputs import BatchError, Input, repeat_rows
from inspector.workloads.media.registry import register_in
from inspector.workloads.media.sizes import (
    count_square_tiles,
    count_unpadded_features,
    fit_canvas,
    fit_resolution,
    fit_tiles,
    resize_native,
    resize_pixtral,
)
from inspector.workloads.media.tower import count_features

__all__ = [
    "MOST_TILES",
    "Images",
    "Pictures",
    "count_channels",
    "find_plain_size",
    "find_processor",
    "make_images",
    "make_plain_images",
    "read_side",
    "read_square",
    "register_images",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What is asked for: `count` images of `size` (height, width) in each of `rows`, for a model and its processor."""

    model: Any
    settings: Mapping[str, Any]
    rows: int
    count: int
    size: tuple[int, int]

    @property
    def total(self) -> int:
        """Return how many images the batch has."""
        return self.rows * self.count

    @property
    def vision(self) -> Any:
        """Return the configuration of the tower."""
        config = self.model.config
        encoder = getattr(config, "encoder", None)  # of a model of any encoder
        own = getattr(config, "vision_config", None) or getattr(config, "image_config", None)
        own = own or getattr(encoder, "vision_config", None)
        return own or (encoder if hasattr(encoder, "image_size") else config)

    def read(self, name: str, default: Any) -> Any:
        """Return a setting of the processor."""
        value = self.settings.get(name)
        return default if value is None else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What a processor makes of the images of a batch: tensors, and the placeholders of one image in its row.

    `holds_all` says that the model looks for images of padding among them, of which there are none. `pixels` are
    height and width of what the tower sees, `parts` how many of those an image is cut into.
    """

    inputs: Mapping[str, Input]
    tokens: int
    pixels: tuple[int, int]
    parts: int = 1
    holds_all: bool = False
    of_rows: Mapping[str, Callable[[int], Input]] = field(default_factory=dict)


# What classifiers of images that name no size are trained with (ImageNet).
USUAL_SIZE = (224, 224)
# Types whose processors cut into tiles by default (`images_kwargs` in their processing modules).
_IN_TILES = frozenset(("aya_vision", "internvl", "qianfan_ocr"))
# Processors cut an image into 12 or 36 tiles at most.
MOST_TILES = 256

_Maker = Callable[[Pictures], Images]
_MAKERS: dict[str, _Maker] = {}


def register_images(*names: str) -> Callable[[_Maker], _Maker]:
    """Return a decorator that enters what makes the images of processors of these names."""
    return register_in(_MAKERS, *names)


def find_processor(model: Any, settings: Mapping[str, Any]) -> str | None:
    """Return the class of a model's image processor without the backend in its name, None where none is known here."""
    named = settings.get("image_processor_type")
    if not isinstance(named, str):
        named = next(iter(list_image_processors(model.config.model_type)), "")
    name = named.removesuffix("Fast").removesuffix("Pil")
    return name if name in _MAKERS else None


def make_images(processor: str, pictures: Pictures) -> Images:
    """Return the images of a batch as a processor makes them; raises BatchError where its settings make no sense."""
    return _MAKERS[processor](pictures)


def make_plain_images(model: Any, recipe: Recipe, usual: tuple[int, int] = USUAL_SIZE) -> Input:
    """Return the images of a model that takes no tokens, as large as its configuration or its processor's file says.

    Where neither does they are of the size that the recipe asks for, or of the `usual` one.
    """
    size = find_plain_size(model) or _read_asked(recipe) or usual
    pictures = Pictures(model=model, settings={}, rows=recipe.batch_size, count=1, size=size)
    return Input(shape=(recipe.batch_size, count_channels(pictures), *size), dtype=torch.float32)


def find_plain_size(model: Any) -> tuple[int, int] | None:
    """Return height and width of such an image, None where neither file says them."""
    for settings in ({}, getattr(model.config, "processor_settings", None) or {}):
        with contextlib.suppress(BatchError):
            return read_square(Pictures(model=model, settings=settings, rows=1, count=1, size=USUAL_SIZE))
    return None


def _read_asked(recipe: Recipe) -> tuple[int, int] | None:
    """Return height and width of the recipe's images, None where it names none."""
    return None if recipe.image_size is None else parse_image_size(recipe.image_size)[::-1]


# --- one size ---------------------------------------------------------------------------------------------------------


@register_in(
    _MAKERS,
    *("CLIPImageProcessor", "LlavaImageProcessor", "SiglipImageProcessor", "Gemma3ImageProcessor"),
    *("BlipImageProcessor", "ChameleonImageProcessor", "JanusImageProcessor"),
)
def _make_fixed(pictures: Pictures) -> Images:
    """Make images of the one size that the tower takes."""
    size = read_square(pictures)
    pixels = Input(shape=(pictures.total, count_channels(pictures), *size), dtype=torch.float32)
    return Images(inputs={"pixel_values": pixels}, tokens=_count_for_one(pictures, pixels), pixels=size)


# --- tiles ------------------------------------------------------------------------------------------------------------


@register_in(_MAKERS, "LlavaNextImageProcessor")
def _make_resolutions(pictures: Pictures) -> Images:
    """Make the image once whole and once in tiles of the resolution that wastes least; its borders have no tokens."""
    size = read_square(pictures)
    config, vision = pictures.model.config, pictures.vision
    pinpoints = pictures.read("image_grid_pinpoints", config.image_grid_pinpoints)
    resolution = fit_resolution(pictures.size, pinpoints)
    tiles = resolution[0] // size[0], resolution[1] // size[1]
    patches = size[0] // vision.patch_size, size[1] // vision.patch_size
    tokens = count_unpadded_features(pictures.size, patches, tiles) + patches[0] * patches[1]
    if getattr(config, "vision_feature_select_strategy", "default") == "full":
        tokens += 1
    parts = tiles[0] * tiles[1] + 1
    shape = (pictures.total, parts, count_channels(pictures), *size)
    inputs = {
        "pixel_values": Input(shape=shape, dtype=torch.float32),
        "image_sizes": repeat_rows(pictures.total, pictures.size),
    }
    return Images(inputs=inputs, tokens=tokens, pixels=size, parts=parts)


@register_in(_MAKERS, "GotOcr2ImageProcessor")
def _make_tiles(pictures: Pictures) -> Images:
    """Make tiles of the canvas whose shape is closest, and the whole image where there is more than one.

    InternVL's processor asks for it (internvl/processing_internvl.py), whatever the image processor's file says.
    """
    size = read_square(pictures)
    parts = 1
    if pictures.model.config.model_type in _IN_TILES or pictures.read("crop_to_patches", False):
        fewest, most = int(pictures.read("min_patches", 1)), int(pictures.read("max_patches", 12))
        if most > MOST_TILES:
            raise BatchError(f"its processor cuts an image into up to {most:,} tiles, as none does")
        rows, columns = fit_tiles(pictures.size, size, fewest, most)
        parts = rows * columns + 1 if rows * columns > 1 else 1
    pixels = Input(shape=(pictures.total * parts, count_channels(pictures), *size), dtype=torch.float32)
    tokens = parts * _count_for_one(pictures, pixels)
    return Images(inputs={"pixel_values": pixels}, tokens=tokens, pixels=size, parts=parts)


@register_in(_MAKERS, "Idefics3ImageProcessor", "SmolVLMImageProcessor")
def _make_squares(pictures: Pictures) -> Images:
    """Make squares of the image as it is rescaled, and the whole one; a row's images are one dimension."""
    config, vision = pictures.model.config, pictures.vision
    side = read_side(pictures.read("max_image_size", None), "longest_edge") or int(vision.image_size)
    longest = read_side(pictures.settings.get("size"), "longest_edge") or 4 * side
    parts = count_square_tiles(pictures.size, longest, side) if pictures.read("do_image_splitting", True) else 1
    tokens = parts * ((side // vision.patch_size) ** 2 // config.scale_factor**2)
    shape = (pictures.rows, pictures.count * parts)
    inputs = {
        # Images of zeros would be padding.
        "pixel_values": Input(shape=(*shape, count_channels(pictures), side, side), dtype=torch.float32, value=1),
        "pixel_attention_mask": Input(shape=(*shape, side, side), value=1),
    }
    return Images(inputs=inputs, tokens=tokens, pixels=(side, side), parts=parts, holds_all=True)


@register_in(_MAKERS, "MllamaImageProcessor")
def _make_cross_attention(pictures: Pictures) -> Images:
    """Make tiles, as many as an image can have at most: those that it lacks are padding; a row has one token each."""
    vision = pictures.vision
    tile = read_side(pictures.settings.get("size"), "height") or int(vision.image_size)
    most = min(int(pictures.read("max_image_tiles", vision.max_num_tiles)), int(vision.max_num_tiles))
    rows, columns = fit_canvas(pictures.size, tile, most)
    ratio = list(map(tuple, vision.supported_aspect_ratios)).index((rows, columns)) + 1
    shape = (pictures.rows, pictures.count)
    mark = functools.partial(_mark_first, (*shape, most), rows * columns)
    inputs = {
        "pixel_values": Input(shape=(*shape, most, count_channels(pictures), tile, tile), dtype=torch.float32),
        "aspect_ratio_ids": Input(shape=shape, value=ratio),
        "aspect_ratio_mask": Input(shape=(*shape, most), make=mark),
    }

    def cross(length: int) -> Input:
        of_rows = (pictures.rows, length, pictures.count, most)
        return Input(shape=of_rows, make=functools.partial(_mark_first, of_rows, rows * columns))

    return Images(
        inputs=inputs, tokens=1, pixels=(tile, tile), parts=rows * columns, of_rows={"cross_attention_mask": cross}
    )


# --- native resolution ------------------------------------------------------------------------------------------------


@register_in(_MAKERS, "PixtralImageProcessor")
def _make_pixtral(pictures: Pictures) -> Images:
    """Make images of their own shape, in whole patches; the ends of lines are tokens of the text."""
    merge = int(getattr(pictures.model.config, "spatial_merge_size", 1))
    patch = int(pictures.vision.patch_size)
    longest = read_side(pictures.settings.get("size"), "longest_edge") or int(pictures.vision.image_size)
    unit = patch * merge
    height, width = resize_pixtral(pictures.size, (longest, longest), (unit, unit))
    inputs = {
        "pixel_values": Input(shape=(pictures.total, count_channels(pictures), height, width), dtype=torch.float32),
        "image_sizes": repeat_rows(pictures.total, (height, width)),
    }
    return Images(inputs=inputs, tokens=height // unit * (width // unit), pixels=(height, width))


@register_in(_MAKERS, "Qwen2VLImageProcessor")
def _make_patches(pictures: Pictures) -> Images:
    """Make rows of patches, and a grid that says how they lie; the tower merges squares of them."""
    return make_grid(pictures, default=(56 * 56, 28 * 28 * 1280), frames=1)


@register_in(_MAKERS, "Glm4vImageProcessor", "Glm46VImageProcessor")
def _make_glm_patches(pictures: Pictures) -> Images:
    """Make the same; the pixels of two frames count."""
    return make_grid(pictures, default=(112 * 112, 28 * 28 * 15_000), frames=2)


def make_grid(pictures: Pictures, *, default: tuple[int, int], frames: int) -> Images:
    """Return patches of images with the grid of each: fewest and most pixels are `default` where no file says them."""
    vision = pictures.vision
    patch = int(pictures.read("patch_size", vision.patch_size))
    merge = int(pictures.read("merge_size", vision.spatial_merge_size))
    temporal = int(pictures.read("temporal_patch_size", vision.temporal_patch_size))
    size = pictures.settings.get("size")
    fewest = int(pictures.read("min_pixels", None) or read_side(size, "shortest_edge") or default[0])
    most = int(pictures.read("max_pixels", None) or read_side(size, "longest_edge") or default[1])
    height, width = resize_native(pictures.size, patch * merge, fewest, most, frames)
    grid = (1, height // patch, width // patch)
    channels = int(getattr(vision, "in_channels", 3))
    inputs = {
        "pixel_values": Input(
            shape=(pictures.total * math.prod(grid), channels * temporal * patch**2), dtype=torch.float32
        ),
        "image_grid_thw": repeat_rows(pictures.total, grid),
    }
    return Images(inputs=inputs, tokens=math.prod(grid) // merge**2, pixels=(height, width))


# --- parts ------------------------------------------------------------------------------------------------------------


def _count_for_one(pictures: Pictures, pixels: Input) -> int:
    """Return how many tokens one of the images takes: as many features as the tower makes of it."""
    return count_features(pictures.model, (1, *pixels.shape[1:]))


def count_channels(pictures: Pictures) -> int:
    """Return how many channels an image has."""
    channels = getattr(pictures.vision, "num_channels", 3)
    return channels if isinstance(channels, int) else 3


def read_square(pictures: Pictures) -> tuple[int, int]:
    """Return height and width of what the tower sees: the crop, the size, or what the configuration says."""
    for name in ("crop_size", "size"):
        if name == "crop_size" and pictures.settings.get("do_center_crop") is False:
            continue
        size = pictures.settings.get(name)
        edge = read_side(size, "shortest_edge") if name == "size" else None
        sides = (read_side(size, "height") or edge, read_side(size, "width") or edge)
        if sides[0] and sides[1]:
            return sides[0], sides[1]
    size = getattr(pictures.vision, "image_size", None) or getattr(pictures.vision, "input_size", None)  # LayoutLMv3
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, int):
        return size, size
    raise BatchError("neither its config nor its preprocessor_config.json says how large its images are")


def read_side(size: Any, name: str) -> int | None:
    """Return a side of a size as processors write it: a number, or numbers by name."""
    value = size.get(name) if isinstance(size, Mapping) else size
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _mark_first(shape: tuple[int, ...], count: int) -> Tensor:
    """Return ones for the first `count` of the last dimension, zeros for the rest."""
    marked = torch.zeros(shape, dtype=torch.int64)
    marked[..., :count] = 1
    return marked
