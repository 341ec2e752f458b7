"""Into what an image processor makes an image of a size: the arithmetic of transformers' own, in plain numbers.

The modules of transformers that hold it need torchvision; tests hold these functions against them. Sizes are
(height, width), as there. Each function names the module under `transformers/models` that it follows (5.23).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from inspector.workloads.inputs import BatchError

__all__ = [
    "count_square_tiles",
    "count_unpadded_features",
    "fit_canvas",
    "fit_resolution",
    "fit_tiles",
    "resize_idefics",
    "resize_native",
    "resize_pixtral",
]

Size = tuple[int, int]
# The longest side that Idefics 3 ever resizes to (idefics3/image_processing_idefics3.py, MAX_IMAGE_SIZE).
_LONGEST_SIDE = 4096
_MOST_ASPECT = 200
# By how much features may be more than LLaVA-OneVision takes before they are scaled down.
_SLACK = 1.1


def resize_native(size: Size, factor: int, fewest: int, most: int, frames: int = 1, counted: int | None = None) -> Size:
    """Return the size in multiples of `factor` with `fewest` to `most` pixels (qwen2_vl, `smart_resize`).

    With `frames` the pixels of all of them count (glm4v, `smart_resize`), of `counted` ones against the bounds.
    """
    height, width = size
    if max(size) / min(size) > _MOST_ASPECT:
        raise BatchError(f"images of {width}x{height} pixels are more than {_MOST_ASPECT} times as long as wide")
    if frames > 1 and min(size) < factor:
        scale = factor / min(size)
        height, width = int(height * scale), int(width * scale)
    rounded = round(height / factor) * factor, round(width / factor) * factor
    pixels = (counted or frames) * rounded[0] * rounded[1]
    if pixels > most:
        scale = math.sqrt(frames * height * width / most)
        height, width = (max(factor, math.floor(side / scale / factor) * factor) for side in (height, width))
        return height, width
    if pixels < fewest:
        scale = math.sqrt(fewest / (frames * height * width))
        return math.ceil(height * scale / factor) * factor, math.ceil(width * scale / factor) * factor
    return rounded


def resize_pixtral(size: Size, longest: Size, patch: Size) -> Size:
    """Return the size within `longest`, in whole patches (pixtral, `get_resize_output_image_size`)."""
    ratio = max(side / most for side, most in zip(size, longest, strict=True))
    if ratio > 1:
        size = math.floor(size[0] / ratio), math.floor(size[1] / ratio)
    height, width = (((side - 1) // unit + 1) * unit for side, unit in zip(size, patch, strict=True))
    return height, width


def fit_resolution(size: Size, resolutions: Sequence[Sequence[int]]) -> Size:
    """Return the resolution that wastes least of an image (image_processing_utils.py, `select_best_resolution`)."""
    height, width = size
    best, most, least = (0, 0), 0, math.inf
    for rows, columns in resolutions:
        scale = min(columns / width, rows / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        wasted = rows * columns - effective
        if effective > most or (effective == most and wasted < least):
            best, most, least = (rows, columns), effective, wasted
    return best


def resize_idefics(size: Size, shortest: int, longest: int) -> Size:
    """Return the size within two sides, the longer of which counts first (idefics2, `get_resize_output_image_size`)."""
    height, width = size
    aspect = width / height
    if width >= height and width > longest:
        height, width = int(longest / aspect), longest
    elif height > width and height > longest:
        height, width = longest, int(longest * aspect)
    return max(height, shortest), max(width, shortest)


def count_unpadded_features(size: Size, patches: Size, tiles: Size, most: int | None = None) -> int:
    """Return how many features of tiles are kept of an image, and line ends (llava_next, `_get_unpadded_features`).

    Of more than `most` tiles they are scaled down (llava_onevision).
    """
    height, width = size
    rows, columns = patches[0] * tiles[0], patches[1] * tiles[1]
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    if most is not None and (ratio := math.sqrt(rows * columns / (most * patches[0] ** 2))) > _SLACK:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return rows * columns + rows


def fit_tiles(size: Size, tile: Size, fewest: int, most: int) -> Size:
    """Return (rows, columns) of tiles of an image (got_ocr2, `get_optimal_tiled_canvas`)."""
    height, width = size
    grids = [
        (columns, rows)
        for columns in range(1, most + 1)
        for rows in range(1, most + 1)
        if fewest <= columns * rows <= most
    ]
    best, least = (1, 1), math.inf
    for grid in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        difference = abs(width / height - grid[0] / grid[1])
        is_worth_more = width * height > 0.5 * tile[0] * tile[1] * grid[0] * grid[1]
        if difference < least or (difference == least and is_worth_more):
            best, least = grid, difference
    return best[1], best[0]


def fit_canvas(size: Size, tile: int, most: int) -> Size:
    """Return (rows, columns) of the tiles of an image's canvas (mllama, `get_optimal_tiled_canvas`)."""
    grids = [(first, second) for first in range(1, most + 1) for second in range(1, most + 1) if first * second <= most]
    scales = [min(first * tile / size[0], second * tile / size[1]) for first, second in grids]
    larger = [scale for scale in scales if scale >= 1]
    chosen = min(larger) if larger else max(scales)
    return min(
        (grid for grid, scale in zip(grids, scales, strict=True) if scale == chosen), key=lambda grid: grid[0] * grid[1]
    )


def count_square_tiles(size: Size, longest: int, side: int) -> int:
    """Return how many squares of `side` an image is split into, with the whole one beside them (idefics3).

    Source: `get_number_of_image_patches`; 0 there means that an image is not split.
    """
    height, width = size
    aspect = width / height
    if width >= height:
        width, height = longest, max(int(longest / aspect) + int(longest / aspect) % 2, 1)
    else:
        height, width = longest, max(int(longest * aspect) + int(longest * aspect) % 2, 1)
    aspect = width / height
    if width >= height and width > _LONGEST_SIDE:
        width, height = _LONGEST_SIDE, int(_LONGEST_SIDE / aspect)
    elif height > width and height > _LONGEST_SIDE:
        height, width = _LONGEST_SIDE, int(_LONGEST_SIDE * aspect)
    rows, columns = math.ceil(max(height, 1) / side), math.ceil(max(width, 1) / side)
    return rows * columns + 1 if rows * columns > 1 else 1
