"""The batch of a denoiser: latents of images, and what a text encoder makes of their captions.

As diffusers' scripts have them behind the encoders (train_text_to_image_lora.py, train_text_to_image_lora_sdxl.py,
train_dreambooth_lora_sd3.py, train_dreambooth_lora_flux.py; PixArt-alpha's train_pixart_lora_hf.py), in the dtype of
the weights and by the names of the denoiser's forward pass. Noise and timesteps are the loss's
(`inspector.workloads.diffusion`).
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
# Numbers that say where a token of Flux is.
_AXES = 3
# Latents on a side where a configuration does not say it: of Stable Diffusion, and `default_sample_size` of Flux.
_SIDE, _PACKED_SIDE = 64, 128
# Latents on a side of the PixArt that takes sizes of images (train_pixart_lora_hf.py).
_SIZED = 128


@register("UNet2DConditionModel", main=("latents",))
def _make_latents(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make latents, hidden states of captions, and with SDXL one vector of each caption and the sizes of the image."""
    config = model.config
    settings, rows, dtype, made = _begin(model, recipe)
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


@register("SD3Transformer2DModel", main=("latents",))
def _make_latents_of_sd3(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make latents, captions after CLIP and T5, and the vectors of both of CLIP's encoders."""
    settings, rows, dtype, made = _begin(model, recipe)
    captions = (rows, model.config.text_length, int(settings.joint_attention_dim))
    made["encoder_hidden_states"] = Input(shape=captions, dtype=dtype)
    made["pooled_projections"] = Input(shape=(rows, int(settings.pooled_projection_dim)), dtype=dtype)
    return made


@register("FluxTransformer2DModel", main=("latents",))
def _make_latents_of_flux(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make latents, which are packed later, four to a token; captions after T5, their places, and CLIP's vectors."""
    settings, rows, dtype, made = _begin(model, recipe, packed=2)
    length = model.config.text_length
    made["encoder_hidden_states"] = Input(shape=(rows, length, int(settings.joint_attention_dim)), dtype=dtype)
    made["pooled_projections"] = Input(shape=(rows, int(settings.pooled_projection_dim)), dtype=dtype)
    made["txt_ids"] = Input(shape=(length, _AXES), dtype=dtype)
    return made


@register("PixArtTransformer2DModel", main=("latents",))
def _make_latents_of_pixart(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make latents, captions after T5 with their mask, and at 1,024 pixels the size and the shape of each image."""
    settings, rows, dtype, made = _begin(model, recipe)
    width, length = settings.caption_channels or settings.cross_attention_dim, model.config.text_length
    made["encoder_hidden_states"] = Input(shape=(rows, length, int(width)), dtype=dtype)
    made["encoder_attention_mask"] = Input(shape=(rows, length), value=1)
    if settings.sample_size == _SIZED:
        made["resolution"] = Input(shape=(rows, 2), dtype=dtype)
        made["aspect_ratio"] = Input(shape=(rows, 1), dtype=dtype)
    return made


@register("DiTTransformer2DModel", main=("latents",))
def _make_latents_of_dit(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make latents and the class of each image."""
    _, rows, _, made = _begin(model, recipe)
    made["class_labels"] = Input(shape=(rows,))
    return made


def _begin(model: Any, recipe: Recipe, *, packed: int = 1) -> tuple[Any, int, Any, dict[str, Any]]:
    """Return the settings of a denoiser, the rows and the dtype of its batch, and a batch of latents.

    `packed` by `packed` latents become a token before the denoiser takes them.
    """
    config = model.config
    settings = getattr(model, config.component).config
    dtype = next(parameter.dtype for parameter in model.parameters())
    size = _find_size(settings, recipe, config.scale, packed)
    channels = int(settings.in_channels) // packed**2
    return (
        settings,
        recipe.batch_size,
        dtype,
        {"latents": Input(shape=(recipe.batch_size, channels, *size), dtype=dtype)},
    )


def _find_size(settings: Any, recipe: Recipe, scale: int, packed: int) -> tuple[int, int]:
    """Return height and width of the latents of an image, as large as the denoiser is made for where nobody says it."""
    if recipe.image_size is None:
        side = settings.get("sample_size") or (_PACKED_SIDE if packed > 1 else _SIDE)
        return (int(side[0]), int(side[1])) if isinstance(side, (list, tuple)) else (int(side), int(side))
    width, height = parse_image_size(recipe.image_size)
    if min(width, height) < scale:
        raise BatchError(
            f"an image of {width}x{height} pixels has no latents: its encoder makes it {scale} times smaller"
        )
    patch = max(packed, int(settings.get("patch_size") or 1))
    step = scale * patch
    if patch > 1 and (width % step or height % step):
        raise BatchError(
            f"an image of {width}x{height} pixels does not come out in patches of this denoiser: `image_size` in "
            f"steps of {step}"
        )
    return height // scale, width // scale
