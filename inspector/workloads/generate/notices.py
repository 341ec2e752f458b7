"""What to say of a generation: sizes that grow with the square of the prompt, copies that nobody needs, CUDA graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from inspector.records.memory import Unaccounted
from inspector.records.notice import Notice
from inspector.records.recipe import CacheKind, Precision, Recipe, find_prompt_len
from inspector.workloads.base import base_model
from inspector.workloads.notices import find_notices

__all__ = ["find_generation_notices", "find_static_graphs", "hears"]

# From here on a mask of the prompt squared is tens of MiB in each dtype.
_LONG_PROMPT = 4096
# What a prompt consists of.
_PROMPT = ("input_ids", "attention_mask")
_SOUND = ("input_features",)


def find_generation_notices(model: Any, asked: Recipe, recipe: Recipe) -> Iterator[Notice]:
    """Yield what the user should know about generating as `recipe` says, which is `asked` as it runs on `model`."""
    base = base_model(model)
    prompt_len = find_prompt_len(recipe)
    length = prompt_len + recipe.new_tokens
    yield from find_notices(
        model,
        dataclasses.replace(asked, seq_len=length),
        dataclasses.replace(recipe, seq_len=length),
        _SOUND if hears(base) else _PROMPT,
    )
    window = _find_window(base)
    if window is not None and recipe.prefill_chunk_size is None and prompt_len >= max(window, _LONG_PROMPT):
        message = (
            f"Layers with a window of {window:,} tokens make a mask of the prompt's length squared, and a copy "
            f"in the dtype of the weights: `prefill_chunk_size={_LONG_PROMPT}` keeps it small."
        )
        yield Notice(code="quadratic-mask", message=message)
    if hears(base):
        message = (
            f"{type(base).__name__} generates from sound: its prompt is one spectrogram a sequence, and `prompt_len` "
            "is the one token that its decoder begins with."
        )
        yield Notice(code="prompt-of-sound", message=message)
    has_copies = recipe.mixed_precision != Precision.NO and any(
        parameter.requires_grad and parameter.dtype is torch.float32 for parameter in model.parameters()
    )
    if has_copies:
        message = (
            "Under autocast every float32 weight that requires gradients, as from_pretrained leaves it, has a copy in "
            "half precision until generate returns: call model.requires_grad_(False) first, or load the model with "
            "`dtype=bfloat16`."
        )
        yield Notice(code="autocast-copies", message=message)


def hears(base: Any) -> bool:
    """Tell whether a model generates from sound."""
    return bool(base.main_input_name == "input_features")


def find_static_graphs(recipe: Recipe) -> tuple[Unaccounted, ...]:
    """Return what a static cache takes that is not traced."""
    if recipe.cache != CacheKind.STATIC:
        return ()
    why = "transformers compiles decoding with a static cache unless disable_compile=True, which is what is traced"
    return (Unaccounted(what="CUDA graphs of compiled decoding", why=why),)


def _find_window(base: Any) -> int | None:
    """Return the window of a model's sliding layers, None where it has none."""
    text = base.config.get_text_config(decoder=True)
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None)
    slides = kinds is None or any("sliding" in str(kind) for kind in kinds)
    return window if isinstance(window, int) and slides else None
