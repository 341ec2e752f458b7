"""A step of a denoiser takes what the loop of diffusers' own script takes, event by event."""

from __future__ import annotations

import functools
import gc
import math
from typing import Any

import peft
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import inspector
from inspector.model.diffusion.denoiser import Denoiser, DenoiserConfig, read_denoiser
from inspector.records.diffusion import StoredComponent, StoredPipeline
from inspector.workloads.batch import make_batch_inputs
from inspector.workloads.inputs import Input
from tests.trace.cpu_truth import adamw, assert_aligned, meta_step, profiled_events

diffusers: Any = pytest.importorskip("diffusers", reason="diffusers is an extra")

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
# oneDNN has layouts of its own, and the CPU's kernels copy what is not contiguous and add up in buffers.
KERNELS = (
    *("aten::convolution", "aten::native_group_norm", "aten::native_group_norm_backward", "aten::gelu"),
    *("aten::gelu_backward", "aten::mse_loss", "aten::mse_loss_backward", "aten::upsample_nearest2d"),
    "aten::upsample_nearest2d_backward",
)
RECIPE = inspector.Recipe(batch_size=2)


def read(fields: dict[str, Any], predicts_velocity: bool = False) -> tuple[DenoiserConfig, type[Denoiser]]:
    """Return the configuration and the class of a small denoiser."""
    stored = StoredComponent(
        name="unet",
        library="diffusers",
        class_name="UNet2DConditionModel",
        config={**fields, "_diffusers_version": "0"},
    )
    config, model_class = read_denoiser(
        StoredPipeline(class_name="Small", components=(stored,), trained="unet", predicts_velocity=predicts_velocity)
    )
    config.text_length = 6
    return config, model_class


def build(
    device: str, *, fields: dict[str, Any], lora: bool, checkpointing: bool, velocity: bool
) -> tuple[Any, dict[str, Any]]:
    """Return a small denoiser on a device, with its batch."""
    config, model_class = read(fields, velocity)
    with torch.device(device):
        torch.manual_seed(0)
        base: Any = model_class(config)
        model: Any = base
        base.unet.set_attn_processor(diffusers.models.attention_processor.AttnProcessor())  # the CPU has its own sdpa
        if checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if lora:
            model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=TARGETS))
    model.train()
    batch = {name: item.on(device) for name, item in make_batch_inputs(base, RECIPE).items() if isinstance(item, Input)}
    return model, batch


def script_step(fields: dict[str, Any], options: dict[str, Any]) -> Any:
    """Return the events of two iterations of examples/text_to_image/train_text_to_image_lora.py on the CPU."""
    lora, checkpointing, velocity = (options[name] for name in ("lora", "checkpointing", "velocity"))
    batch = build("cpu", fields=fields, lora=False, checkpointing=False, velocity=velocity)[1]
    unet = diffusers.UNet2DConditionModel.from_config(fields)
    noise_scheduler = diffusers.DDPMScheduler(prediction_type="v_prediction" if velocity else "epsilon")
    if lora:
        unet.requires_grad_(False)
        unet.add_adapter(peft.LoraConfig(r=4, target_modules=TARGETS))
    if checkpointing:
        unet.enable_gradient_checkpointing()
    unet.set_attn_processor(diffusers.models.attention_processor.AttnProcessor())
    unet.train()
    trained = [item for item in unet.parameters() if item.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=True)
    latents, encoder_hidden_states = batch["latents"], batch["encoder_hidden_states"]
    added = {name: batch[name] for name in ("text_embeds", "time_ids") if name in batch}
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        for _ in range(2):
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (2,), device=latents.device)
            timesteps = timesteps.long()
            noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
            target = noise_scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
            more = {"added_cond_kwargs": added} if added else {}
            model_pred = unet(noisy_latents, timesteps, encoder_hidden_states, return_dict=False, **more)[0]
            loss = torch.nn.functional.mse_loss(model_pred.float(), target.float(), reduction="mean")
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return profiled_events(watch, KERNELS)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        (UNET, {"lora": True, "checkpointing": False, "velocity": False}),
        (UNET, {"lora": True, "checkpointing": False, "velocity": True}),
        (SDXL, {"lora": True, "checkpointing": True, "velocity": False}),
    ],
    ids=["lora", "velocity", "sdxl, checkpointing"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_step_takes_what_the_script_of_diffusers_takes(fields: dict[str, Any], options: dict[str, Any]) -> None:
    real, inside = script_step(fields, options)
    make: Any = functools.partial(build, fields=fields, **options)
    meta = meta_step(make, adamw, steps=(1, 2))
    # Tables of the scheduler are on the CPU, and the first of them goes to any other device.
    count = diffusers.DDPMScheduler().config.num_train_timesteps
    assert 4 * count in meta
    meta = [size for size in meta if abs(size) not in (4 * count, 8 * count)]
    # The function of the script has not ended, as the loop has that held what the last iteration had made.
    latents = make_batch_inputs(make("meta")[0].get_base_model(), RECIPE)["latents"]
    assert isinstance(latents, Input)
    while meta[-1] == -4 * math.prod(latents.shape):
        meta.pop()
    assert_aligned(real, inside, meta)
