"""Small models of tasks beside text, each with its batch: series of numbers, and captions of images.

A row of the table is the class, and what its configuration needs. Dropout is off: the CPU keeps other noise than CUDA,
and meta follows CUDA.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

import inspector
from inspector.compat.numbers import RememberNumbers
from inspector.compat.transformers import take_scipy_as_installed
from inspector.workloads.batch import Input, make_batch_inputs
from inspector.workloads.inputs import make_item

RECIPE = inspector.Recipe(batch_size=2, seq_len=24, padding=False, audio_seconds=0.2)


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
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": 5,
    "patch_size": 8,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_TEXT: dict[str, Any] = {"vocab_size": 160, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

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
    items = make_batch_inputs(model, RECIPE).items()
    return model, {key: make_item(item, lambda part, key=key: _fill(key, part, device)) for key, item in items}  # type: ignore[misc]


def _fill(name: str, item: Input, device: str) -> torch.Tensor:
    """Return an input on a device; on the CPU numbers are drawn."""
    if item.make is None and item.dtype.is_floating_point and device == "cpu" and "mask" not in name:
        return torch.rand(item.shape, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.3
    return item.on(device)
