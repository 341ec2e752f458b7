"""A video as a model's processor makes it: frames or patches, what goes with them, and where they stand in a row.

A registry by the type of the model, since the text that stands between the frames is its processor's. Sizes come from
video_preprocessor_config.json (or "video_processor" of processor_config.json), else from the file of images, which
transformers reads then, else they are the class's defaults. All videos of a batch are equally large and long. They are
taken as they come out of sampling: `frames` is what is left of it, two a second of it where text says when (the rate
of qwen-vl-utils). Pixel values are float32, as processors return them.

Text between frames has as many tokens as its words, marks and digits: tokenizers of these models (Qwen2's, SmolLM's)
keep digits apart, GLM's up to three together.

Not covered: images and videos in one row; types that are not named here, such as Video-LLaMA 3, which drops the tokens
of pixels that do not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from inspector.workloads.inputs import BatchError, Input, repeat_rows
from inspector.workloads.media.images import Pictures, count_channels, read_side, read_square
from inspector.workloads.media.registry import register_in
from inspector.workloads.media.sizes import resize_native
from inspector.workloads.media.tower import count_features

__all__ = [
    "ASSUMED_FRAMES",
    "FRAMES_PER_SECOND",
    "Clips",
    "Videos",
    "find_frames",
    "make_videos",
    "read_video_settings",
]

# Frames of a video where nobody says how many, and how many a second are taken (qwen-vl-utils, FPS).
ASSUMED_FRAMES = 16
FRAMES_PER_SECOND = 2
# What `mm_token_type_ids` call tokens of videos (transformers 5.23, processing_utils.py).
_VIDEO_TYPE = 2
# Share of the context that all frames of a video may fill (qwen2_vl/video_processing_qwen2_vl.py).
_SHARE_OF_CONTEXT = 0.9
# What a frame has at least beyond the fewest pixels where it is capped (both Qwen processors).
_FLOOR = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips(Pictures):
    """What is asked for: `count` videos of so many `frames` in each of `rows`, of a size (height, width)."""

    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Videos:
    """What a processor makes of the videos of a batch: tensors, and the placeholders of one video in its row.

    `spans` are how many placeholders stand together, `gap` how many tokens of text stand before each further one.
    `names` are the fields of the configuration that hold their id, `type` what `mm_token_type_ids` call them. `pixels`
    are height and width of a frame as the tower sees it. `holds_all`: the model looks for frames of padding.
    """

    inputs: Mapping[str, Input]
    spans: tuple[int, ...]
    pixels: tuple[int, int]
    gap: int = 1
    names: tuple[str, ...] = ("video_token_id", "video_token_index")
    type: int = _VIDEO_TYPE
    holds_all: bool = False


# Fields of a placeholder that images and videos share.
_OF_IMAGES = ("image_token_id", "image_token_index")

_Maker = Callable[[Clips], Videos]
_MAKERS: dict[str, _Maker] = {}


def make_videos(clips: Clips) -> Videos | None:
    """Return the videos of a batch, None where it is not known here what the model's processor makes of them.

    Raises BatchError where its settings make no sense, or it refuses so few frames.
    """
    maker = _MAKERS.get(clips.model.config.model_type)
    return None if maker is None else maker(clips)


def read_video_settings(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a repository says of its processor of videos, where it says nothing what it says of images."""
    own = settings.get("video_processor")
    return own if isinstance(own, Mapping) else settings


def find_frames(settings: Mapping[str, Any]) -> int | None:
    """Return how many frames a processor takes of a video, None where it does not say; SmolVLM's older files do so."""
    sampling = settings.get("video_sampling")
    return read_side(settings.get("num_frames"), "") or read_side(sampling, "max_frames")


# --- native resolution ------------------------------------------------------------------------------------------------


@register_in(_MAKERS, "qwen2_vl")
def _make_patches(clips: Clips) -> Videos:
    """Make rows of patches and a grid; each frame is resized alone (qwen2_vl/video_processing_qwen2_vl.py)."""
    unit, temporal = _read_unit(clips), _read(clips, "temporal_patch_size")
    fewest, most = _read_bounds(clips, (128 * 28 * 28, 28 * 28 * 768))
    if clips.read("cap_pixels_per_frame", False):
        budget = int(int(clips.read("max_video_tokens", 128_000)) * unit**2 * _SHARE_OF_CONTEXT)
        most = max(min(most, budget * temporal // clips.frames), int(fewest * _FLOOR))
    return _make_grid(clips, resize_native(clips.size, unit, fewest, most))


@register_in(_MAKERS, "qwen2_5_vl")
def _make_timed_patches(clips: Clips) -> Videos:
    """Make the same with the seconds of each step of the grid (qwen2_5_vl/processing_qwen2_5_vl.py)."""
    made = _make_patches(clips)
    seconds = _read(clips, "temporal_patch_size") // FRAMES_PER_SECOND
    timed = Input(shape=(clips.total,), dtype=torch.float32, value=seconds, is_read=True)
    return Videos(inputs={**made.inputs, "second_per_grid_ts": timed}, spans=made.spans, pixels=made.pixels)


@register_in(_MAKERS, "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
def _make_stamped_patches(clips: Clips) -> Videos:
    """Make rows of patches; each step of the grid stands alone, behind its time (qwen3_vl/processing_qwen3_vl.py)."""
    unit, temporal = _read_unit(clips), _read(clips, "temporal_patch_size")
    fewest, most = _read_bounds(clips, (128 * 32 * 32, 32 * 32 * 768))
    if clips.read("cap_pixels_per_frame", False):
        frame = int(clips.read("max_video_tokens", 768)) * unit**2
        most = max(min(frame, most // clips.frames), int(fewest * _FLOOR)) * clips.frames
    size = _resize_together(clips, unit, temporal, fewest, most)
    # "<", digits, ".", a digit, " seconds" and ">", and the marks of begin and end.
    return _make_grid(clips, size, gap=7 + _count_digits(clips), is_cut=True)


@register_in(_MAKERS, "glm4v", "glm4v_moe", "glm46v")
def _make_glm_patches(clips: Clips) -> Videos:
    """Make the same behind a full second, or the tenths of it (glm4v, glm46v: `replace_frame_token_id`)."""
    bounds = _read_bounds(clips, (112 * 112, 28 * 28 * 2 * 30_000))
    size = _resize_together(clips, _read_unit(clips), _read(clips, "temporal_patch_size"), *bounds)
    return _make_grid(
        clips, size, gap=6 if clips.model.config.model_type == "glm46v" else 3, is_cut=True, names=_OF_IMAGES
    )


def _resize_together(clips: Clips, unit: int, temporal: int, fewest: int, most: int) -> tuple[int, int]:
    """Return the size of frames whose pixels are bounded together."""
    if clips.frames < temporal:
        raise BatchError(f"its processor takes videos of {temporal} frames or more: use `frames={temporal}`")
    counted = round(clips.frames / temporal) * temporal
    return resize_native(clips.size, unit, fewest, most, clips.frames, counted)


def _make_grid(clips: Clips, size: tuple[int, int], *, is_cut: bool = False, **options: Any) -> Videos:
    """Return patches of videos with the grid of each; a last frame is repeated until a step of it is full."""
    patch, merge, temporal = (_read(clips, name) for name in ("patch_size", "merge_size", "temporal_patch_size"))
    grid = (math.ceil(clips.frames / temporal), size[0] // patch, size[1] // patch)
    of_patch = int(getattr(clips.vision, "in_channels", 3)) * temporal * patch**2
    inputs = {
        "pixel_values_videos": Input(shape=(clips.total * math.prod(grid), of_patch), dtype=torch.float32),
        "video_grid_thw": repeat_rows(clips.total, grid),
    }
    of_step = grid[1] * grid[2] // merge**2
    return Videos(inputs=inputs, spans=(of_step,) * grid[0] if is_cut else (of_step * grid[0],), pixels=size, **options)


# --- one size ---------------------------------------------------------------------------------------------------------


@register_in(_MAKERS, "llava_next_video", "llava_onevision", "video_llava")
def _make_frames(clips: Clips) -> Videos:
    """Make frames of the one size that the tower takes; what it makes of a video is one span."""
    size = read_square(clips)
    shape = (clips.total, clips.frames, count_channels(clips), *size)
    return Videos(
        inputs={"pixel_values_videos": Input(shape=shape, dtype=torch.float32)},
        spans=(count_features(clips.model, (1, *shape[1:]), "get_video_features"),),
        pixels=size,
    )


@register_in(_MAKERS, "internvl")
def _make_images(clips: Clips) -> Videos:
    """Make an image of each frame, behind its number (internvl/processing_internvl.py)."""
    size = read_square(clips)
    shape = (clips.total * clips.frames, count_channels(clips), *size)
    return Videos(
        inputs={"pixel_values": Input(shape=shape, dtype=torch.float32)},
        spans=(count_features(clips.model, (1, *shape[1:])),) * clips.frames,
        pixels=size,
        # The mark of the end, a new line, "Frame", digits, ":", " ", and the mark of the begin.
        gap=6 + len(str(clips.frames)),
        names=_OF_IMAGES,
        type=1,
    )


@register_in(_MAKERS, "smolvlm")
def _make_squares(clips: Clips) -> Videos:
    """Make a square of each frame, never split, behind its time (smolvlm/video_processing_smolvlm.py)."""
    config, vision = clips.model.config, clips.vision
    side = read_side(clips.read("max_image_size", None), "longest_edge") or int(vision.image_size)
    shape = (clips.total, clips.frames)
    inputs = {
        # Frames of zeros would be padding.
        "pixel_values": Input(shape=(*shape, count_channels(clips), side, side), dtype=torch.float32, value=1),
        "pixel_attention_mask": Input(shape=(*shape, side, side), value=1),
    }
    return Videos(
        inputs=inputs,
        spans=((side // vision.patch_size) ** 2 // config.scale_factor**2,) * clips.frames,
        pixels=(side, side),
        # The mark of the end, "\nFrame from 00:01:", and the marks of an image and of a whole one.
        gap=12,
        names=_OF_IMAGES,
        type=1,
        holds_all=True,
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _read(clips: Clips, name: str) -> int:
    """Return a number of the processor, the tower's where its file does not say it."""
    return int(clips.read(name, getattr(clips.vision, {"merge_size": "spatial_merge_size"}.get(name, name))))


def _read_unit(clips: Clips) -> int:
    """Return of how many pixels sides are multiples."""
    return _read(clips, "patch_size") * _read(clips, "merge_size")


def _read_bounds(clips: Clips, default: tuple[int, int]) -> tuple[int, int]:
    """Return the fewest and the most pixels of a frame or a video."""
    size = clips.settings.get("size")
    edges = size if isinstance(size, Mapping) else {}
    fewest = clips.read("min_pixels", None) or edges.get("shortest_edge") or default[0]
    most = clips.read("max_pixels", None) or edges.get("longest_edge") or default[1]
    return int(fewest), int(most)


def _count_digits(clips: Clips) -> int:
    """Return how many digits the full seconds of the last frame have."""
    return len(str((clips.frames - 1) // FRAMES_PER_SECOND))
