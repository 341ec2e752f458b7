"""The loss of a denoiser: noise is added to latents, and the denoiser predicts it.

Line by line what diffusers' examples/text_to_image/train_text_to_image_lora.py does in an iteration (0.42), behind its
encoders. What `main()` there binds to names lives until the next iteration binds them anew, and so it does here. PixArt
and DiT are trained in that loop, too (after PixArt-alpha's train_scripts/train_pixart_lora_hf.py, from memory): of
twice as many channels the first half is the noise. What DiT learns of the variance beside it has no loss here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from inspector.model.diffusion.denoiser import make_scheduler
from inspector.workloads.base import base_model

__all__ = ["DenoisingLoss", "name_conditions"]

# What diffusers takes in one mapping: of SDXL, and of PixArt at 1,024 pixels.
_ADDED = ("text_embeds", "time_ids", "resolution", "aspect_ratio")


class DenoisingLoss:
    """The mean squared error between the noise and what the denoiser makes of the sum of latents and noise."""

    of_a_batch: ClassVar[str | None] = None

    def __init__(self) -> None:
        self._scheduler: Any = None
        self._held: dict[str, Tensor] = {}

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Return the model."""
        self._scheduler = make_scheduler(base_model(model))
        return model

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], _count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss; what a script holds of an iteration stays here."""
        held, latents = self._held, batch["latents"]
        held["noise"] = torch.randn_like(latents)
        steps = self._scheduler.config.num_train_timesteps
        held["timesteps"] = torch.randint(0, steps, (latents.shape[0],), device=latents.device).long()
        held["noisy"] = self._scheduler.add_noise(latents, held["noise"], held["timesteps"])
        if self._scheduler.config.prediction_type == "v_prediction":
            held["target"] = self._scheduler.get_velocity(latents, held["noise"], held["timesteps"])
        else:
            held["target"] = held["noise"]
        conditions = name_conditions(batch)
        predicted = forward(held["noisy"], timestep=held["timesteps"], **conditions)
        held["predicted"] = predicted if predicted.shape[1] == latents.shape[1] else predicted.chunk(2, 1)[0]
        held["loss"] = functional.mse_loss(held["predicted"].float(), held["target"].float(), reduction="mean")
        return held["loss"], None

    def counts_labels(self, _model: nn.Module, _batch: Mapping[str, Any]) -> bool:
        """Return that it is a mean."""
        return False


def name_conditions(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a denoiser takes of a batch beside latents, by the names of its class."""
    conditions = {name: item for name, item in batch.items() if name not in ("latents", *_ADDED)}
    added = {name: batch[name] for name in _ADDED if name in batch}
    return {**conditions, **({"added_cond_kwargs": added} if added else {})}
