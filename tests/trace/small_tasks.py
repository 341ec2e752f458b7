"""Small models of tasks beside text, each with its batch: series of numbers, and captions of images.

A row of the table is the class, and what its configuration needs. Dropout is off: the CPU keeps other noise than CUDA,
and meta follows CUDA.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

import inspector
from inspector.compat.numbers import RememberNumbers
from inspector.compat.transformers import take_scipy_as_installed
from inspector.runtime.patches import replace_attribute, restore_changes
from inspector.trace.rules.matching import match_in_turn
from inspector.workloads.batch import Input, make_batch_inputs
from inspector.workloads.inputs import make_item

RECIPE = inspector.Recipe(batch_size=2, seq_len=24, padding=False, audio_seconds=0.2, image_size="32x32")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallTask:
    """A small model: its type, its class, fields of its configuration, and kernels of the CPU that take memory."""

    model_type: str
    model_class: str
    fields: dict[str, Any] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()


_LAGGED: dict[str, Any] = {
    "prediction_length": 4,
    "context_length": 8,
    "lags_sequence": [1, 2, 3],
    "num_time_features": 2,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "scaling": "mean",
}
_IMAGES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": 5,
    "patch_size": 8,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_TEXT: dict[str, Any] = {"vocab_size": 160, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BERT: dict[str, Any] = {**_IMAGES, **_TEXT, "max_position_embeddings": 64}
_SEEN: dict[str, Any] = {**_BERT, "visual_embedding_dim": 16}
_LXMERT: dict[str, Any] = {
    **_BERT,
    "num_qa_labels": 5,
    "num_object_labels": 6,
    "num_attr_labels": 4,
    "visual_feat_dim": 16,
    "l_layers": 1,
    "x_layers": 1,
    "r_layers": 1,
}
_VILT: dict[str, Any] = {**_BERT, "image_size": 16, "num_images": 2, "modality_type_vocab_size": 3}
# The CPU sums up and multiplies mixed dtypes in memory of its own, and copies what gelu's gradient has not contiguous.
_MIXED = ("aten::sum", "aten::mul", "aten::sub", "aten::div", "aten::cat", "aten::gelu_backward")
# It makes images contiguous before it convolves or scales them, and matrices of odd strides before it multiplies.
_SCALING = (
    "upsample_linear1d",
    "upsample_nearest2d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "_upsample_bilinear2d_aa",
)
_PIXELS = (
    *("aten::_convolution", "aten::mm", "aten::_log_softmax", "aten::_log_softmax_backward_data", *_MIXED),
    *(f"aten::{name}{end}" for name in _SCALING for end in ("", "_backward")),
)
# Kernels of detectors that make what they take contiguous, or keep sums and logarithms of their own.
_BOXES = (
    *("aten::native_batch_norm", "aten::native_batch_norm_backward", "aten::max_pool2d_with_indices_backward"),
    *("aten::log_sigmoid_forward", "aten::binary_cross_entropy_with_logits", "aten::_softmax_backward_data"),
    *("aten::grid_sampler_2d", "aten::grid_sampler_2d_backward"),
)

SMALL_TASKS: dict[str, SmallTask] = {
    "forecasts with lags": SmallTask(
        model_type="time_series_transformer", model_class="TimeSeriesTransformerForPrediction", fields=_LAGGED
    ),
    "captions": SmallTask(
        model_type="vision-encoder-decoder",
        model_class="VisionEncoderDecoderModel",
        fields={
            "encoder": {**_IMAGES, "model_type": "vit", "image_size": 16},
            "decoder": {
                **_IMAGES,
                **_TEXT,
                "model_type": "bert",
                "is_decoder": True,
                "add_cross_attention": True,
                "max_position_embeddings": 32,
            },
            "decoder_start_token_id": 1,
            "pad_token_id": 0,
        },
    ),
    "visual reasoning": SmallTask(
        model_type="visual_bert", model_class="VisualBertForVisualReasoning", fields=_SEEN, kernels=_MIXED
    ),
    "visual choices": SmallTask(
        model_type="visual_bert", model_class="VisualBertForMultipleChoice", fields=_SEEN, kernels=_MIXED
    ),
    "captions of regions": SmallTask(
        model_type="visual_bert", model_class="VisualBertForPreTraining", fields=_SEEN, kernels=_MIXED
    ),
    "phrases of regions": SmallTask(
        model_type="visual_bert", model_class="VisualBertForRegionToPhraseAlignment", fields=_SEEN, kernels=_MIXED
    ),
    "questions on regions": SmallTask(
        model_type="lxmert", model_class="LxmertForQuestionAnswering", fields=_LXMERT, kernels=_MIXED
    ),
    "placed captions": SmallTask(
        model_type="lxmert", model_class="LxmertForPreTraining", fields=_LXMERT, kernels=_MIXED
    ),
    "pictured text": SmallTask(model_type="vilt", model_class="ViltForMaskedLM", fields=_VILT, kernels=_PIXELS),
    "questions on images": SmallTask(
        model_type="vilt", model_class="ViltForQuestionAnswering", fields=_VILT, kernels=_PIXELS
    ),
    "two images": SmallTask(
        model_type="vilt", model_class="ViltForImagesAndTextClassification", fields=_VILT, kernels=_PIXELS
    ),
    "patches of pages": SmallTask(
        model_type="pix2struct",
        model_class="Pix2StructForConditionalGeneration",
        fields={
            "text_config": {
                **_TEXT,
                "hidden_size": 32,
                "d_kv": 16,
                "d_ff": 48,
                "num_layers": 1,
                "num_heads": 2,
                "dropout_rate": 0.0,
                "decoder_start_token_id": 1,
            },
            "vision_config": {
                "hidden_size": 32,
                "patch_embed_hidden_size": 12,
                "d_ff": 48,
                "d_kv": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "dropout_rate": 0.0,
                "seq_len": 64,
            },
            "decoder_start_token_id": 1,
            "pad_token_id": 0,
        },
        kernels=_PIXELS,
    ),
    "painted segments": SmallTask(
        model_type="seggpt",
        model_class="SegGptForImageSegmentation",
        fields={
            **_IMAGES,
            "num_hidden_layers": 2,
            "image_size": [32, 16],
            "mlp_dim": 48,
            "merge_index": 0,
            "intermediate_hidden_state_indices": [0, 1],
            "decoder_hidden_size": 8,
            "drop_path_rate": 0.0,
            "pretrain_image_size": 16,
        },
        kernels=_PIXELS,
    ),
    "images in patches": SmallTask(
        model_type="siglip2",
        model_class="Siglip2ForImageClassification",
        fields={"vision_config": {**_IMAGES, "num_patches": 16}, "num_labels": 5},
        kernels=(*_PIXELS, "aten::copy_"),
    ),
    "videos and texts": SmallTask(
        model_type="videoprism",
        model_class="VideoPrismClipModel",
        fields={
            "vision_config": {
                **_IMAGES,
                "image_size": 16,
                "num_frames": 2,
                "tubelet_size": [1, 8, 8],
                "num_spatial_layers": 1,
                "num_temporal_layers": 1,
                "num_auxiliary_layers": 1,
            },
            "text_config": {**_BERT},
        },
        kernels=_PIXELS,
    ),
    "masked images": SmallTask(
        model_type="vit",
        model_class="ViTForMaskedImageModeling",
        fields={**_IMAGES, "image_size": 16, "encoder_stride": 8},
        kernels=_PIXELS,
    ),
    "masked videos": SmallTask(
        model_type="videomae",
        model_class="VideoMAEForPreTraining",
        fields={
            **_IMAGES,
            "image_size": 32,
            "num_frames": 4,
            "tubelet_size": 2,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 24,
        },
        kernels=(*_PIXELS, "aten::mse_loss"),
    ),
    "videos": SmallTask(
        model_type="videomae",
        model_class="VideoMAEForVideoClassification",
        fields={**_IMAGES, "image_size": 32, "num_frames": 4, "tubelet_size": 2},
        kernels=_PIXELS,
    ),
    "objects": SmallTask(
        model_type="yolos",
        model_class="YolosForObjectDetection",
        fields={**_IMAGES, "image_size": [32, 32], "num_detection_tokens": 10},
        kernels=_PIXELS,
    ),
    "masked pairs": SmallTask(
        model_type="flava",
        model_class="FlavaForPreTraining",
        fields={
            "text_config": {**_BERT},
            "image_config": {**_IMAGES, "image_size": 32, "mask_token": True, "vocab_size": 20},
            "multimodal_config": {**_IMAGES},
            "image_codebook_config": {"hidden_size": 8, "vocab_size": 20, "num_groups": 4},
            "hidden_size": 32,
            "projection_dim": 16,
        },
        kernels=_PIXELS,
    ),
    "fine boxes": SmallTask(
        model_type="d_fine",
        model_class="DFineForObjectDetection",
        fields={
            "backbone_config": {
                "model_type": "hgnet_v2",
                "hidden_sizes": [16, 16, 16, 16],
                "stem_channels": [3, 8, 8],
                "stage_in_channels": [8, 16, 16, 16],
                "stage_mid_channels": [8, 8, 8, 8],
                "stage_out_channels": [16, 16, 16, 16],
                "stage_num_blocks": [1, 1, 1, 1],
                "stage_downsample": [False, True, True, True],
                "stage_light_block": [False, False, False, False],
                "stage_kernel_size": [3, 3, 3, 3],
                "stage_numb_of_layers": [1, 1, 1, 1],
                "out_features": ["stage2", "stage3", "stage4"],
            },
            "encoder_hidden_dim": 16,
            "encoder_in_channels": [16, 16, 16],
            "encoder_ffn_dim": 24,
            "encoder_attention_heads": 2,
            "encoder_layers": 1,
            "encode_proj_layers": [2],
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
            "d_model": 16,
            "num_queries": 8,
            "num_denoising": 4,
            "decoder_in_channels": [16, 16, 16],
            "decoder_ffn_dim": 24,
            "decoder_layers": 2,
            "decoder_attention_heads": 2,
            "decoder_n_points": [2, 2, 2],
            "up": 200.0,
            "num_labels": 3,
            "hidden_expansion": 0.5,
        },
        kernels=(*_PIXELS, *_BOXES),
    ),
    "grounded captions": SmallTask(
        model_type="blip",
        model_class="BlipForConditionalGeneration",
        fields={
            "text_config": {**_IMAGES, **_TEXT, "encoder_hidden_size": 32, "max_position_embeddings": 32},
            "vision_config": {**_IMAGES, "image_size": 16},
        },
    ),
}


def build_task(device: str, name: str) -> Any:
    """Return the small model `name` on a device, with a batch for it."""
    return build_small(device, SMALL_TASKS[name])


def build_small(device: str, small: SmallTask) -> Any:
    """Return a small model on a device, with a batch for it."""
    config = transformers.AutoConfig.for_model(small.model_type, **small.fields)
    model_class: Any = getattr(transformers, small.model_class)
    with torch.device(device), RememberNumbers(), take_scipy_as_installed():
        torch.manual_seed(0)
        model = model_class._from_config(config, attn_implementation="eager")
    model.train()
    _move_tables(model, device)
    items = make_batch_inputs(model, RECIPE).items()
    return model, {key: make_item(item, lambda part, key=key: _fill(key, part, device)) for key, item in items}  # type: ignore[misc]


@contextlib.contextmanager
def match_alike() -> Iterator[None]:
    """Match predictions and objects in turn inside the block, for real as in a trace.

    What is brought to the CPU leaves the memory of a GPU; here it is one number, for the real step to do so too.
    """

    def bring(tensor: torch.Tensor) -> torch.Tensor:
        return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)

    with restore_changes(), match_in_turn(lambda: None):
        replace_attribute(torch.Tensor, "cpu", bring)
        yield


def _move_tables(model: torch.nn.Module, device: str) -> None:
    """Move tensors that are neither parameters nor buffers, which stay on the CPU and are copied from it in each step.

    VideoMAE's table of positions is one: on a GPU as in a trace it takes a copy more than on the CPU.
    """
    for module in model.modules():
        for name, item in vars(module).items():
            if isinstance(item, torch.Tensor):
                setattr(module, name, item.to(device))


def _fill(name: str, item: Input, device: str) -> torch.Tensor:
    """Return an input on a device; on the CPU numbers are drawn."""
    if item.make is None and item.dtype.is_floating_point and device == "cpu" and "mask" not in name:
        return torch.rand(item.shape, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.3
    return item.on(device)
