"""Names in a PEFT model -> the names that the base model itself has for them.

PEFT puts the base behind one or two attributes: tuners have a model of their own around it, prompt methods have not. A
module that carries an adapter becomes `base_layer` of the adapter's layer, once for each parameter of it that carries
one. Both are taken out of a name here and nowhere else.

Not covered: copies of `modules_to_save` and the originals beside them, which the base has no names for.
"""

from __future__ import annotations

from peft import PeftModel
from peft.tuners import AdaptionPromptModel
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

__all__ = ["find_owner", "find_wrappers", "strip_wrappers"]

_BASE_LAYER = "base_layer"


def strip_wrappers(model: nn.Module, name: str) -> str:
    """Return the name in the base model of a module or parameter that `model`, with PEFT or without, calls `name`."""
    parts = name.split(".")
    wrappers = find_wrappers(model)
    if tuple(parts[: len(wrappers)]) == wrappers:
        parts = parts[len(wrappers) :]
    return ".".join(part for part in parts if part != _BASE_LAYER)


def find_owner(model: nn.Module, name: str) -> str:
    """Return the path in the base model of the module that holds the parameter or buffer `name` of `model`."""
    return strip_wrappers(model, name.rpartition(".")[0])


def find_wrappers(model: nn.Module) -> tuple[str, ...]:
    """Return the attributes that lead through PEFT's wrapping modules to the base model; none without PEFT."""
    if not isinstance(model, PeftModel):
        return ()
    has_tuner = isinstance(model.base_model, (BaseTuner, AdaptionPromptModel))
    return ("base_model", "model") if has_tuner else ("base_model",)
