"""Names in a PEFT model -> the names that the base model itself has for them.

PEFT puts the base behind one or two attributes: tuners have a model of their own around it, prompt methods have not. A
module that carries an adapter becomes `base_layer` of the adapter's layer, once for each parameter of it that carries
one. Both are taken out of a name here and nowhere else.

Not covered by `strip_wrappers`: copies of `modules_to_save` and the originals beside them, which the base has no names
for.
"""

from __future__ import annotations

from collections.abc import Iterator

from peft import PeftModel
from peft.tuners import AdaptionPromptModel, XLoraModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

__all__ = [
    "ends_with",
    "find_adapted_layers",
    "find_owner",
    "find_saved_modules",
    "find_wrappers",
    "list_base_modules",
    "strip_wrappers",
]

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
    if isinstance(model.base_model, XLoraModel):  # around a tuner of its own
        return ("base_model", "lora_model", "model")
    return ("base_model", "model") if has_tuner else ("base_model",)


def ends_with(path: str, name: str) -> bool:
    """Tell whether PEFT's suffix rule matches a module path to a target name."""
    return path == name or path.endswith(f".{name}")


def find_adapted_layers(model: PeftModel) -> list[tuple[str, BaseTunerLayer]]:
    """Return (name in the base model, layer) of every module or single parameter that carries an adapter."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            parameter = getattr(module, "parameter_name", None)
            path = strip_wrappers(model, name)
            found.append((f"{path}.{parameter}" if parameter else path, module))
    return found


def find_saved_modules(model: PeftModel) -> list[tuple[str, ModulesToSaveWrapper]]:
    """Return (name in the base model, wrapper) of every module that is trained and saved as a copy."""
    return [
        (strip_wrappers(model, name), module)
        for name, module in model.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    ]


def list_base_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a base model by their names in it, whether adapters sit on them, on some, or on none."""
    return dict(_walk(model.get_base_model() if isinstance(model, PeftModel) else model, "", set()))


def _walk(module: nn.Module, path: str, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """Yield a module and those below it, what PEFT has put around them left out."""
    while isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
        inner = module.original_module if isinstance(module, AuxiliaryTrainingWrapper) else module.get_base_layer()
        if inner is module:
            break
        module = inner
    if id(module) in seen:
        return
    seen.add(id(module))
    if path:
        yield path, module
    for name, child in module.named_children():
        yield from _walk(child, f"{path}.{name}" if path else name, seen)
