"""Images of Molmo 2 and of HunYuan-VL: overlapping crops beside the whole, and patches with the ends of their lines.

Sources: molmo2/image_processing_molmo2.py and processing_molmo2.py, hunyuan_vl/image_processing_hunyuan_vl.py and
processing_hunyuan_vl.py (5.23).
"""

from __future__ import annotations

import math

import torch

from inspector.workloads.inputs import Input, repeat_rows
from inspector.workloads.media.images import Images, Pictures, register_images
from inspector.workloads.media.sizes import fit_canvas, resize_native

__all__: list[str] = []

# What Molmo2ImageProcessor takes where no file says it: pixels and crops, patches that two crops share, and windows.
_SIDE, _CROPS, _MARGINS, _POOL = 378, 8, (4, 4), (2, 2)
# Fewest and most pixels of HunYuanVLImageProcessor, and the tokens before and behind an image.
_FEWEST, _MOST, _BORDERS = 512 * 512, 2048 * 2048, 2


@register_images("Molmo2ImageProcessor")
def _make_overlapping(pictures: Pictures) -> Images:
    """Make the whole image and crops of it that overlap; windows of patches are pooled into one token each."""
    patch = int(pictures.read("patch_size", pictures.vision.patch_size))
    size = pictures.settings.get("size")
    side = int(size["height"]) if isinstance(size, dict) and isinstance(size.get("height"), int) else _SIDE
    margin = sum(pictures.read("overlap_margins", _MARGINS))
    pool = tuple(pictures.read("pooling_size", _POOL))
    patches = side // patch
    window = (patches - margin) * patch
    inner = pictures.size[0] - margin * patch, pictures.size[1] - margin * patch
    tiles = fit_canvas(inner, window, int(pictures.read("max_crops", _CROPS)))
    whole = tuple(math.ceil(patches / step) for step in pool)
    rows, columns = (
        math.ceil((count * window // patch + margin) / step) for count, step in zip(tiles, pool, strict=True)
    )
    crops, tokens = 1 + math.prod(tiles), math.prod(whole) + rows * columns
    shape = (pictures.total * tokens, math.prod(pool))
    inputs = {
        "pixel_values": Input(shape=(pictures.total * crops, patches**2, 3 * patch**2), dtype=torch.float32),
        "image_token_pooling": Input(shape=shape, dtype=torch.int32),
        "image_grids": repeat_rows(pictures.total, (*whole, rows, columns)),
        "image_num_crops": Input(shape=(pictures.total,), value=crops),
    }
    return Images(inputs=inputs, tokens=tokens, pixels=(side, side), parts=crops)


@register_images("HunYuanVLImageProcessor")
def _make_lines(pictures: Pictures) -> Images:
    """Make rows of patches and a grid; what is merged of them takes a token, and so does the end of each line."""
    vision, size = pictures.vision, pictures.settings.get("size")
    patch = int(pictures.read("patch_size", vision.patch_size))
    merge = int(pictures.read("merge_size", vision.spatial_merge_size))
    temporal = int(pictures.read("temporal_patch_size", 1))
    edges = size if isinstance(size, dict) else {}
    fewest = int(pictures.read("min_pixels", edges.get("shortest_edge") or _FEWEST))
    most = int(pictures.read("max_pixels", edges.get("longest_edge") or _MOST))
    height, width = resize_native(pictures.size, patch * merge, fewest, most)
    grid = (1, height // patch, width // patch)
    lines, columns = grid[1] // merge, grid[2] // merge
    inputs = {
        "pixel_values": Input(shape=(pictures.total * math.prod(grid), 3 * temporal * patch**2), dtype=torch.float32),
        "image_grid_thw": repeat_rows(pictures.total, grid),
    }
    return Images(inputs=inputs, tokens=lines * (columns + 1) + _BORDERS, pixels=(height, width))
