"""Images that a processor cuts or scales in a way of its own: LLaVA-OneVision, Llama 4 and Idefics 2.

Registered with those of `images`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from inspector.workloads.inputs import BatchError, Input, repeat_rows
from inspector.workloads.media.images import (
    MOST_TILES,
    Images,
    Pictures,
    count_channels,
    read_side,
    read_square,
    register_images,
)
from inspector.workloads.media.sizes import count_unpadded_features, fit_canvas, fit_resolution, resize_idefics

__all__: list[str] = []


@register_images("LlavaOnevisionImageProcessor")
def _make_resolutions(pictures: Pictures) -> Images:
    """Make one image of a sequence whole and in tiles, and several whole; features beyond a number are scaled down."""
    size = read_square(pictures)
    config, patch = pictures.model.config, pictures.vision.patch_size
    patches = size[0] // patch, size[1] // patch
    tokens, parts = patches[0] * patches[1] + 1, 1
    if pictures.count == 1:
        resolution = fit_resolution(pictures.size, pictures.read("image_grid_pinpoints", config.image_grid_pinpoints))
        tiles = resolution[0] // size[0], resolution[1] // size[1]
        most = str(getattr(config, "vision_aspect_ratio", "anyres_max_9")).removeprefix("anyres_max_")
        if not most.isdecimal():
            raise BatchError(f"`vision_aspect_ratio` ends in {most[:20]!r}, which is no number of tiles")
        tokens = count_unpadded_features(pictures.size, patches, tiles, int(most)) + patches[0] * patches[1]
        parts = tiles[0] * tiles[1] + 1
    shape = (pictures.total, parts, count_channels(pictures), *size)
    inputs = {
        "pixel_values": Input(shape=shape, dtype=torch.float32),
        "image_sizes": repeat_rows(pictures.total, pictures.size),
        "batch_num_images": Input(shape=(pictures.rows,), value=pictures.count),
    }
    return Images(inputs=inputs, tokens=tokens, pixels=size, parts=parts)


@register_images("Llama4ImageProcessor")
def _make_tiles(pictures: Pictures) -> Images:
    """Make tiles of the canvas that an image fills best, and the whole image where there is more than one."""
    tile = read_side(pictures.settings.get("size"), "height") or int(pictures.vision.image_size)
    most = int(pictures.read("max_patches", 16))
    if not 0 < most <= MOST_TILES:
        raise BatchError(f"its processor cuts an image into up to {most:,} tiles, as none does")
    rows, columns = fit_canvas(pictures.size, tile, most)
    parts = rows * columns + 1 if rows * columns > 1 else 1
    of_tile = int((tile // pictures.vision.patch_size) ** 2 * pictures.vision.pixel_shuffle_ratio**2)
    pixels = Input(shape=(pictures.total * parts, count_channels(pictures), tile, tile), dtype=torch.float32)
    return Images(inputs={"pixel_values": pixels}, tokens=parts * of_tile, pixels=(tile, tile), parts=parts)


@register_images("Idefics2ImageProcessor")
def _make_own_shape(pictures: Pictures) -> Images:
    """Make images of their own shape within two sides, in four quarters beside the whole one where it says so."""
    size = pictures.settings.get("size")
    sides = read_side(size, "shortest_edge") or 378, read_side(size, "longest_edge") or 980
    height, width = pictures.size
    cut = [(height // 2, width // 2)] * 4 if pictures.read("do_image_splitting", False) else []
    sizes = [resize_idefics(item, *sides) for item in (*cut, pictures.size)]
    largest = max(item[0] for item in sizes), max(item[1] for item in sizes)
    shape = (pictures.rows, pictures.count * len(sizes))
    mark = functools.partial(_mark_sizes, pictures.rows, sizes * pictures.count, largest)
    inputs = {
        # Images of zeros would be padding.
        "pixel_values": Input(shape=(*shape, count_channels(pictures), *largest), dtype=torch.float32, value=1),
        "pixel_attention_mask": Input(shape=(*shape, *largest), make=mark),
    }
    tokens = len(sizes) * int(pictures.model.config.perceiver_config.resampler_n_latents)
    return Images(inputs=inputs, tokens=tokens, pixels=largest, parts=len(sizes), holds_all=True)


def _mark_sizes(rows: int, sizes: Sequence[tuple[int, int]], largest: tuple[int, int]) -> Tensor:
    """Return ones where images of their own sizes are, zeros where they are padded to the largest."""
    mask = torch.zeros(len(sizes), *largest, dtype=torch.int64)
    for image, (height, width) in zip(mask, sizes, strict=True):
        image[:height, :width] = 1
    return mask.expand(rows, *mask.shape).clone()
