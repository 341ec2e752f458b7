"""A step of a denoiser takes what the loop of diffusers' own script takes, event by event."""

from __future__ import annotations

import functools
import gc
import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from inspector.trace.rules.cuda import apply_cuda_rules
from inspector.workloads.batch import make_batch_inputs
from inspector.workloads.inputs import Input
from tests.evidence.truth.rank_page import build_platform
from tests.trace.cpu_truth import adamw, assert_aligned, meta_step, profiled_events
from tests.workloads.diffusion.small_denoisers import ON_CUDA, RECIPE, SDXL, TARGETS, UNET, build, one_timestep

diffusers: Any = pytest.importorskip("diffusers", reason="diffusers is an extra")

# oneDNN has layouts of its own, and the CPU's kernels copy what is not contiguous and add up in buffers.
KERNELS = (
    *("aten::convolution", "aten::native_group_norm", "aten::native_group_norm_backward", "aten::gelu"),
    *("aten::gelu_backward", "aten::mse_loss", "aten::mse_loss_backward", "aten::upsample_nearest2d"),
    "aten::upsample_nearest2d_backward",
)
ON_CUDA_CODE = json.loads(
    (Path(__file__).parents[2] / "evidence" / "stand_in" / "denoisers-torch-213-a100.json").read_text(encoding="utf-8")
)


def script_step(fields: dict[str, Any], options: dict[str, Any]) -> Any:
    """Return the events of two iterations of examples/text_to_image/train_text_to_image_lora.py on the CPU."""
    lora, checkpointing, velocity = (options[name] for name in ("lora", "checkpointing", "velocity"))
    batch = build("cpu", fields=fields, lora=False)[1]
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
    processor = diffusers.models.attention_processor.AttnProcessor()  # the CPU has its own sdpa
    make: Any = functools.partial(build, fields=fields, processor=processor, **options)
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


@pytest.mark.parametrize("name", ON_CUDA)
@pytest.mark.filterwarnings("ignore")
def test_a_step_takes_event_by_event_what_torchs_cuda_code_takes(name: str) -> None:
    platform = build_platform(ON_CUDA_CODE)
    with apply_cuda_rules(platform), one_timestep():
        ours = meta_step(lambda device: build(device, **ON_CUDA[name]), adamw, steps=(1, 2), platform=platform)
    assert ours == ON_CUDA_CODE["steps"][name]
