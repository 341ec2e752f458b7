"""A step of SD3 and of Flux takes what the loops of diffusers' own scripts take, event by event."""

from __future__ import annotations

import functools
import gc
import importlib
from typing import Any

import peft
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from inspector.workloads.diffusion import flow
from tests.trace.cpu_truth import adamw, assert_aligned, meta_step, profiled_events
from tests.workloads.diffusion.small_denoisers import CLASSES, FLUX, SD3, TARGETS, build

diffusers: Any = pytest.importorskip("diffusers", reason="diffusers is an extra")

# What the CPU's kernels do otherwise, and what finds a timestep in a table.
KERNELS = (
    *("aten::convolution", "aten::native_layer_norm", "aten::native_layer_norm_backward", "aten::gelu"),
    *("aten::gelu_backward", "aten::nonzero", "aten::_safe_softmax", "aten::outer"),
)


def make_ids(_rows: int, height: int, width: int, device: Any, dtype: Any) -> Any:
    """Return the places of tokens where they are wanted; Flux's pipeline makes them on the CPU."""
    return torch.zeros(height * width, 3, device=device, dtype=dtype)


def make_tables(model: Any, **_: Any) -> Any:
    """Return a scheduler whose tables are where the model is, as in a script on the CPU."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.timesteps, scheduler.sigmas = (item.to(model.device) for item in (scheduler.timesteps, scheduler.sigmas))
    return scheduler


def script_step(kind: str, fields: dict[str, Any], *, lora: bool) -> Any:
    """Return the events of two iterations of examples/dreambooth/train_dreambooth_lora_{sd3,flux}.py on the CPU."""
    training = importlib.import_module("diffusers.training_utils")
    pipeline = importlib.import_module("diffusers.pipelines.flux.pipeline_flux").FluxPipeline
    batch = build("cpu", kind=kind, fields=fields, lora=False)[1]
    model_input = batch.pop("latents")
    transformer = getattr(diffusers, CLASSES[kind]).from_config(fields)
    noise_scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    if lora:
        transformer.requires_grad_(False)
        transformer.add_adapter(peft.LoraConfig(r=4, target_modules=TARGETS))
    transformer.train()
    optimizer = torch.optim.AdamW([item for item in transformer.parameters() if item.requires_grad], foreach=True)
    rows, channels, height, width = model_input.shape
    scheme = "none" if kind == "Flux" else "logit_normal"

    def get_sigmas(timesteps: Any) -> Any:
        step_indices = [(noise_scheduler.timesteps == t).nonzero().item() for t in timesteps]
        return noise_scheduler.sigmas[step_indices].flatten()[:, None, None, None]

    gc.collect()
    with sdpa_kernel(SDPBackend.MATH), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        for _ in range(2):
            if kind == "Flux":
                latent_image_ids = make_ids(rows, height // 2, width // 2, "cpu", torch.float32)
            noise = torch.randn_like(model_input)
            u = training.compute_density_for_timestep_sampling(scheme, rows, 0.0, 1.0, 1.29)
            indices = (u * noise_scheduler.config.num_train_timesteps).long()
            timesteps = noise_scheduler.timesteps[indices]
            sigmas = get_sigmas(timesteps)
            noisy_model_input = (1.0 - sigmas) * model_input + sigmas * noise
            if kind == "Flux":
                packed = pipeline._pack_latents(noisy_model_input, rows, channels, height, width)
                guidance = torch.tensor([3.5])
                guidance = guidance.expand(rows)
                model_pred = transformer(
                    hidden_states=packed,
                    timestep=timesteps / 1000,
                    guidance=guidance,
                    img_ids=latent_image_ids,
                    return_dict=False,
                    **batch,
                )[0]
                model_pred = pipeline._unpack_latents(model_pred, height * 8, width * 8, 8)
            else:
                model_pred = transformer(
                    hidden_states=noisy_model_input, timestep=timesteps, return_dict=False, **batch
                )[0]
                model_pred = model_pred * (-sigmas) + noisy_model_input
            weighting = training.compute_loss_weighting_for_sd3(scheme, sigmas=sigmas)
            target = noise - model_input if kind == "Flux" else model_input
            loss = torch.mean(
                (weighting.float() * (model_pred.float() - target.float()) ** 2).reshape(target.shape[0], -1), 1
            )
            loss = loss.mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return profiled_events(watch, KERNELS)


@pytest.mark.parametrize(("kind", "fields", "lora"), [("SD3", SD3, True), ("Flux", FLUX, False)], ids=["SD3", "Flux"])
@pytest.mark.filterwarnings("ignore")
def test_a_step_of_flows_takes_what_the_script_of_diffusers_takes(
    kind: str, fields: dict[str, Any], lora: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, inside = script_step(kind, fields, lora=lora)
    pipeline = importlib.import_module("diffusers.pipelines.flux.pipeline_flux").FluxPipeline
    monkeypatch.setattr(pipeline, "_prepare_latent_image_ids", make_ids)
    monkeypatch.setattr(flow, "make_scheduler", make_tables)
    with sdpa_kernel(SDPBackend.MATH):
        meta = meta_step(functools.partial(build, kind=kind, fields=fields, lora=lora), adamw, steps=(1, 2))
    meta = [size for size in meta if abs(size) != 4000]  # the tables
    # The function of the script has not ended: it holds noise, mixture and prediction, in Flux target, places, packs.
    assert_aligned(real, inside, meta[: -6 if kind == "Flux" else -3])
