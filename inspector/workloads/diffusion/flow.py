"""The loss of a denoiser of flows: latents and noise are mixed, and it predicts the way from one to the other.

After diffusers' examples/dreambooth/train_dreambooth_lora_sd3.py and train_dreambooth_lora_flux.py, which its package
does not have: what they do in an iteration, behind their encoders and with their defaults, was written from memory and
not run beside them. Schedulers, densities and packing are the package's (0.42): timesteps of SD3 after a normal
distribution and its output preconditioned, all of Flux alike. What `main()` there binds to names lives until the next
iteration.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inspector.model.diffusion.denoiser import Denoiser, make_scheduler
from inspector.workloads.base import base_model
from inspector.workloads.diffusion.loss import name_conditions

__all__ = ["FlowLoss", "find_flow_loss"]

# `--guidance_scale` of Flux's script.
_GUIDANCE = 3.5


class FlowLoss:
    """The mean squared error between latents and what SD3 makes of a place on the way from them to noise."""

    of_a_batch: ClassVar[str | None] = None
    scheme: ClassVar[str] = "logit_normal"

    def __init__(self) -> None:
        self._model: Any = None
        self._scheduler: Any = None
        self._training: Any = importlib.import_module("diffusers.training_utils")
        self._held: dict[str, Any] = {}

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Return the model."""
        self._model = base_model(model)
        self._scheduler = make_scheduler(self._model, flows=True)
        return model

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], _count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss; what a script holds of an iteration stays here."""
        held, latents = self._held, batch["latents"]
        self._mix(latents)
        self._predict(forward, latents, name_conditions(batch))
        held["weighting"] = self._training.compute_loss_weighting_for_sd3(
            weighting_scheme=self.scheme, sigmas=held["sigmas"]
        )
        self._aim(latents)
        held["loss"] = torch.mean(
            (held["weighting"].float() * (held["predicted"].float() - held["target"].float()) ** 2).reshape(
                held["target"].shape[0], -1
            ),
            1,
        )
        held["loss"] = held["loss"].mean()
        return held["loss"], None

    def counts_labels(self, _model: nn.Module, _batch: Mapping[str, Any]) -> bool:
        """Return that it is a mean."""
        return False

    def _mix(self, latents: Tensor) -> None:
        """Mix latents with noise, as far as a timestep of each says, which is drawn on the CPU."""
        held = self._held
        held["noise"] = torch.randn_like(latents)
        density = self._training.compute_density_for_timestep_sampling(
            weighting_scheme=self.scheme,
            batch_size=latents.shape[0],
            logit_mean=0.0,
            logit_std=1.0,
            mode_scale=1.29,
            generator=torch.Generator("cpu").manual_seed(0),
        )
        indices = (density * self._scheduler.config.num_train_timesteps).long()
        held["timesteps"] = self._scheduler.timesteps[indices].to(device=latents.device)
        held["sigmas"] = self._find_sigmas(held["timesteps"], latents)
        held["noisy"] = (1.0 - held["sigmas"]) * latents + held["sigmas"] * held["noise"]

    def _find_sigmas(self, timesteps: Tensor, latents: Tensor) -> Tensor:
        """Return how much noise there is at timesteps, which are looked for in the scheduler's table."""
        sigmas = self._scheduler.sigmas.to(device=latents.device, dtype=latents.dtype)
        schedule_timesteps = self._scheduler.timesteps.to(latents.device)
        step_indices = [(schedule_timesteps == step).nonzero().item() for step in timesteps]
        sigma: Tensor = sigmas[step_indices].flatten()
        while len(sigma.shape) < latents.ndim:
            sigma = sigma.unsqueeze(-1)
        return sigma

    def _predict(self, forward: Callable[..., Any], _latents: Tensor, conditions: Mapping[str, Any]) -> None:
        """Hold what the denoiser predicts of the latents, of whose mixture it says what to take away."""
        held = self._held
        held["predicted"] = forward(hidden_states=held["noisy"], timestep=held["timesteps"], **conditions)
        held["predicted"] = held["predicted"] * (-held["sigmas"]) + held["noisy"]

    def _aim(self, latents: Tensor) -> None:
        """Hold what is to be predicted."""
        self._held["target"] = latents


class _FluxLoss(FlowLoss):
    """The same of the way itself, which Flux predicts of packed latents; all timesteps are drawn alike."""

    scheme = "none"

    def __init__(self) -> None:
        super().__init__()
        self._pipeline: Any = importlib.import_module("diffusers.pipelines.flux.pipeline_flux").FluxPipeline

    def _mix(self, latents: Tensor) -> None:
        rows, _, height, width = latents.shape
        self._held["img_ids"] = self._pipeline._prepare_latent_image_ids(
            rows, height // 2, width // 2, latents.device, latents.dtype
        )
        super()._mix(latents)

    def _predict(self, forward: Callable[..., Any], latents: Tensor, conditions: Mapping[str, Any]) -> None:
        held, scale = self._held, self._model.config.scale
        held["packed"] = self._pipeline._pack_latents(held["noisy"], *latents.shape)
        held["guidance"] = None
        if getattr(self._model, self._model.config.component).config.guidance_embeds:
            held["guidance"] = torch.tensor([_GUIDANCE], device=latents.device)
            held["guidance"] = held["guidance"].expand(latents.shape[0])
        held["predicted"] = forward(
            hidden_states=held["packed"],
            timestep=held["timesteps"] / 1000,
            guidance=held["guidance"],
            img_ids=held["img_ids"],
            **conditions,
        )
        held["predicted"] = self._pipeline._unpack_latents(
            held["predicted"],
            height=latents.shape[2] * scale,
            width=latents.shape[3] * scale,
            vae_scale_factor=scale,
        )

    def _aim(self, latents: Tensor) -> None:
        self._held["target"] = self._held["noise"] - latents


_LOSSES: Mapping[str, type[FlowLoss]] = {"SD3Transformer2DModel": FlowLoss, "FluxTransformer2DModel": _FluxLoss}


def find_flow_loss(model: Denoiser) -> FlowLoss | None:
    """Return the loss of a denoiser whose script mixes latents and noise; None where one is added to the other."""
    made = _LOSSES.get(type(model).__name__)
    return None if made is None else made()
