"""The batch of a denoiser: latents of images, and what a text encoder makes of their captions.

As diffusers' train_text_to_image_lora.py and train_text_to_image_lora_sdxl.py have them behind the encoders, in the
dtype of the weights. The noise and the timesteps are the model's (`inspector.model.diffusion.denoiser`).
"""

from __future__ import annotations

from typing import Any

from inspector.records.recipe import Recipe
from inspector.records.steps.media import parse_image_size
from inspector.workloads.inputs import BatchError, Input, Inputs
from inspector.workloads.tasks.registry import register

__all__: list[str] = []

# Numbers that say of which size an image was and what was cropped (SDXL).
_TIME_IDS = 6


@register("UNet2DConditionModel", main=("latents",))
def _make_latents(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make latents, hidden states of captions, and with SDXL one vector of each caption and the sizes of the image."""
    config = model.config
    settings, rows = getattr(model, config.component).config, recipe.batch_size
    dtype = next(parameter.dtype for parameter in model.parameters())
    size = _find_size(settings, recipe, config.scale)
    made = {"latents": Input(shape=(rows, int(settings.in_channels), *size), dtype=dtype)}
    width = settings.cross_attention_dim
    width = max(width) if isinstance(width, (list, tuple)) else width
    made["encoder_hidden_states"] = Input(shape=(rows, config.text_length, int(width)), dtype=dtype)
    if settings.addition_embed_type == "text_time":
        pooled = int(settings.projection_class_embeddings_input_dim) - _TIME_IDS * int(settings.addition_time_embed_dim)
        made["text_embeds"] = Input(shape=(rows, pooled), dtype=dtype)
        made["time_ids"] = Input(shape=(rows, _TIME_IDS), dtype=dtype)
    elif settings.addition_embed_type is not None or settings.class_embed_type is not None:
        raise BatchError("what this UNet is conditioned on beside text is not known here")
    return made


def _find_size(settings: Any, recipe: Recipe, scale: int) -> tuple[int, int]:
    """Return height and width of the latents of an image, as large as the denoiser is made for where nobody says it."""
    if recipe.image_size is None:
        side = settings.sample_size
        return (int(side[0]), int(side[1])) if isinstance(side, (list, tuple)) else (int(side or 64), int(side or 64))
    width, height = parse_image_size(recipe.image_size)
    if min(width, height) < scale:
        raise BatchError(
            f"an image of {width}x{height} pixels has no latents: its encoder makes it {scale} times smaller"
        )
    return height // scale, width // scale
