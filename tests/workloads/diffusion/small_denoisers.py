"""Small denoisers of diffusers, with a batch for each; importing it needs diffusers where one is built."""

from __future__ import annotations

from typing import Any

import peft
import torch

import inspector
from inspector.model.diffusion.denoiser import Denoiser, DenoiserConfig, read_denoiser
from inspector.records.diffusion import StoredComponent, StoredPipeline
from inspector.workloads.batch import make_batch_inputs
from inspector.workloads.inputs import Input

TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]
UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
SDXL: dict[str, Any] = {
    **UNET,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
    "transformer_layers_per_block": [1, 2],
    "use_linear_projection": True,
}
RECIPE = inspector.Recipe(batch_size=2)
# Those that were recorded on torch's CUDA code.
ON_CUDA: dict[str, dict[str, Any]] = {
    "unet, lora": {"fields": UNET},
    "unet, full": {"fields": UNET, "lora": False, "velocity": True},
    "sdxl, lora, bfloat16": {"fields": SDXL, "dtype": torch.bfloat16},
    "unet, lora, bfloat16, checkpointing": {"fields": UNET, "dtype": torch.bfloat16, "checkpointing": True},
}


def read(fields: dict[str, Any], *, predicts_velocity: bool = False) -> tuple[DenoiserConfig, type[Denoiser]]:
    """Return the configuration and the class of a small denoiser."""
    config = {**fields, "_diffusers_version": "0"}
    stored = StoredComponent(name="unet", library="diffusers", class_name="UNet2DConditionModel", config=config)
    pipeline = StoredPipeline(
        class_name="Small", components=(stored,), trained="unet", predicts_velocity=predicts_velocity
    )
    found, model_class = read_denoiser(pipeline)
    found.text_length = 6
    return found, model_class


def build(
    device: str,
    *,
    fields: dict[str, Any],
    lora: bool = True,
    checkpointing: bool = False,
    velocity: bool = False,
    dtype: torch.dtype = torch.float32,
    processor: Any = None,
) -> tuple[Any, dict[str, Any]]:
    """Return a small denoiser on a device, with its batch; `processor` runs its attention."""
    config, model_class = read(fields, predicts_velocity=velocity)
    with torch.device(device):
        torch.manual_seed(0)
        base: Any = model_class(config)
        base.to(dtype)
        if processor is not None:
            base.unet.set_attn_processor(processor)
        if checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=TARGETS)) if lora else base
    model.train()
    batch = {name: item.on(device) for name, item in make_batch_inputs(base, RECIPE).items() if isinstance(item, Input)}
    return model, batch
