"""Small denoisers of diffusers, with a batch for each; importing it needs diffusers where one is built."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import peft
import torch

import inspector
from inspector.model.diffusion.classes import import_diffusers
from inspector.model.diffusion.denoiser import Denoiser, DenoiserConfig, read_denoiser
from inspector.records.diffusion import StoredComponent, StoredPipeline
from inspector.runtime.patches import replace_attribute, restore_changes
from inspector.workloads.batch import make_batch_inputs
from inspector.workloads.diffusion import flow
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
SD3: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 16,
    "pos_embed_max_size": 8,
}
FLUX: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 16,
    "guidance_embeds": True,
    "axes_dims_rope": [4, 4, 8],
}
PIXART: dict[str, Any] = {
    "sample_size": 8,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "cross_attention_dim": 32,
    "caption_channels": 16,
}
DIT: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "num_embeds_ada_norm": 10,
}
CLASSES = {
    "unet": "UNet2DConditionModel",
    **{name: f"{name}Transformer2DModel" for name in ("SD3", "Flux", "PixArt", "DiT")},
}
RECIPE = inspector.Recipe(batch_size=2, image_size="64")
# Those that were recorded on torch's CUDA code.
ON_CUDA: dict[str, dict[str, Any]] = {
    "unet, lora": {"fields": UNET},
    "unet, full": {"fields": UNET, "lora": False, "velocity": True},
    "sdxl, lora, bfloat16": {"fields": SDXL, "dtype": torch.bfloat16},
    "unet, lora, bfloat16, checkpointing": {"fields": UNET, "dtype": torch.bfloat16, "checkpointing": True},
    "sd3, lora": {"kind": "SD3", "fields": SD3},
    "sd3, full, bfloat16": {"kind": "SD3", "fields": SD3, "lora": False, "dtype": torch.bfloat16},
    "flux, lora, bfloat16, checkpointing": {
        "kind": "Flux",
        "fields": FLUX,
        "dtype": torch.bfloat16,
        "checkpointing": True,
    },
    "flux, full": {"kind": "Flux", "fields": FLUX, "lora": False},
    "pixart, lora": {"kind": "PixArt", "fields": PIXART},
    "dit, full": {"kind": "DiT", "fields": DIT, "lora": False},
}


@contextlib.contextmanager
def one_timestep() -> Iterator[None]:
    """Let the tables of flows have one timestep: where no kernel computes, each of a table is found."""
    with restore_changes():
        make = import_diffusers().FlowMatchEulerDiscreteScheduler
        replace_attribute(flow, "make_scheduler", lambda _model, **_: make(num_train_timesteps=1))
        yield


def read(
    fields: dict[str, Any], *, kind: str = "unet", predicts_velocity: bool = False
) -> tuple[DenoiserConfig, type[Denoiser]]:
    """Return the configuration and the class of a small denoiser."""
    config = {**fields, "_diffusers_version": "0"}
    name = "unet" if kind == "unet" else "transformer"
    stored = StoredComponent(name=name, library="diffusers", class_name=CLASSES[kind], config=config)
    pipeline = StoredPipeline(
        class_name="Small", components=(stored,), trained=name, predicts_velocity=predicts_velocity
    )
    found, model_class = read_denoiser(pipeline)
    found.text_length = 6
    return found, model_class


def build(
    device: str,
    *,
    fields: dict[str, Any],
    kind: str = "unet",
    lora: bool = True,
    checkpointing: bool = False,
    velocity: bool = False,
    dtype: torch.dtype = torch.float32,
    processor: Any = None,
) -> tuple[Any, dict[str, Any]]:
    """Return a small denoiser on a device, with its batch; `processor` runs its attention."""
    config, model_class = read(fields, kind=kind, predicts_velocity=velocity)
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
