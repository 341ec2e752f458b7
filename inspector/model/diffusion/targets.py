"""Which layers of a denoiser a LoRA is on where nobody says: those of diffusers' own training scripts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from inspector.records.request import LoraOptions

__all__ = ["name_targets"]

# examples/text_to_image/train_text_to_image_lora.py of diffusers.
_ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
# examples/dreambooth/train_dreambooth_lora_sd3.py and train_dreambooth_lora_flux.py.
_JOINT = tuple(f"attn.{name}" for name in ("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out", *_ATTENTION))
_FLUX = (*_JOINT, "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
_TARGETS: Mapping[str, tuple[str, ...]] = {"SD3Transformer2DModel": _JOINT, "FluxTransformer2DModel": _FLUX}


def name_targets(peft: Any, class_name: str) -> Any:
    """Return an adapter as it was asked for, with the layers of the scripts where it is a LoRA and names none."""
    targets = _TARGETS.get(class_name, _ATTENTION)
    if isinstance(peft, LoraOptions) and peft.targets is None:
        return dataclasses.replace(peft, targets=targets)
    if isinstance(peft, Mapping) and str(peft.get("peft_type")).upper() == "LORA" and not peft.get("target_modules"):
        return {**peft, "target_modules": list(targets)}
    return peft
