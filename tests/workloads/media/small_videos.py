"""Small models of text and videos, with a batch for each as its processor would make it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import transformers

from inspector.workloads.batch import make_batch_inputs
from inspector.workloads.inputs import make_item
from tests.trace.small_models import MROPE, PATCHES, RECIPE, of_images

VIDEO_TOKEN = 151
OF_VIDEOS = dataclasses.replace(RECIPE, videos=2, frames=3, seq_len=80, image_size="24x16")
_IDS: dict[str, Any] = {"video_token_id": VIDEO_TOKEN, "video_token_index": VIDEO_TOKEN}
# Settings of the processors of videos: small ones.
_PIXELS: dict[str, Any] = {"video_processor": {"size": {"shortest_edge": 64, "longest_edge": 4096}}}
_CLIP = {"projection_dim": 32}
_QWEN3 = {**PATCHES, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
# Where the CPU lists the places of a mask, casts integers that meet floats, and copies what is not contiguous: CUDA's
# kernels of `grid_sample` take any strides.
KERNELS = (
    *("aten::index", "aten::add", "aten::avg_pool2d", "aten::convolution", "aten::grid_sampler_2d_backward"),
    *("aten::upsample_bilinear2d", "aten::upsample_bilinear2d_backward"),
)
VIDEO_MODELS: dict[str, Any] = {
    "qwen2_vl": of_images(
        "",
        MROPE,
        "",
        {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, **PATCHES, "mlp_ratio": 2},
        processor_settings=_PIXELS,
        **_IDS,
    ),
    "qwen2_5_vl": of_images(
        "",
        MROPE,
        "",
        {**PATCHES, "window_size": 32, "fullatt_block_indexes": [1]},
        processor_settings=_PIXELS,
        **_IDS,
    ),
    "qwen3_vl": of_images("", {**MROPE, "head_dim": 16}, "", _QWEN3, processor_settings=_PIXELS, **_IDS),
    "glm4v": of_images(
        "",
        {**MROPE, "head_dim": 16},
        "",
        {**PATCHES, "image_size": 32},
        processor_settings=_PIXELS,
        **_IDS,
    ),
    "glm46v": of_images(
        "",
        {**MROPE, "head_dim": 16, "model_type": "glm4v_text"},
        "",
        {**PATCHES, "image_size": 32, "model_type": "glm4v_vision"},
        processor_settings=_PIXELS,
        **_IDS,
    ),
    "llava_next_video": of_images(vision={"image_size": 32}, image_grid_pinpoints=[[32, 32]], **_IDS),
    "llava_onevision": of_images("qwen2", vision_type="siglip_vision_model", image_grid_pinpoints=[[16, 16]], **_IDS),
    "video_llava": of_images(vision=_CLIP, **_IDS),
    "internvl": of_images("qwen2", vision={"image_size": [16, 16], "patch_size": [8, 8], "hidden_dropout_prob": 0.0}),
    "smolvlm": of_images(scale_factor=2, processor_settings={"max_image_size": {"longest_edge": 16}}),
}


def build(device: str, name: str) -> tuple[Any, dict[str, Any]]:
    """Return a small model on a device, and its batch."""
    small = VIDEO_MODELS[name]
    config = transformers.AutoConfig.for_model(name, **small.fields)
    with torch.device(device):
        torch.manual_seed(0)
        model = transformers.AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    model.train()
    batch = {
        key: make_item(item, lambda part: part.on(device)) for key, item in make_batch_inputs(model, OF_VIDEOS).items()
    }
    return model, batch
