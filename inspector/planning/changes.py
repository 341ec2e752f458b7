"""A change of a request: fields with their new values, how it is made, and how it reads as options of the command."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from inspector.quantization.declared import find_declared
from inspector.records.recipe import Recipe
from inspector.records.request import AdapterDtype, LoraOptions, Preparation, Quantization, Request
from inspector.records.source import SourceFiles
from inspector.resolve import ResolvedRun
from inspector.training_files.changes import follow_packing

__all__ = [
    "IN_FLOAT",
    "LORA",
    "WITHOUT_ADAPTER",
    "Change",
    "apply_change",
    "expand_segments",
    "find_stored_dtype",
    "format_change",
    "format_options",
    "has_adapter",
    "is_of_recipe",
    "is_stored_quantized",
]

# Fields of the request and of its recipe with their new values.
Change = Mapping[str, Any]
LORA = LoraOptions(r=16, targets="all-linear")
# The base weights as they come.
IN_FLOAT: Change = {"quantization": None, "double_quant": None, "quant_storage": None}
# What there is to say of an adapter means nothing without one.
WITHOUT_ADAPTER: Change = {
    "peft": None,
    "autocast_adapter_dtype": True,
    "adapter_dtype": AdapterDtype.AUTO,
    "preparation": Preparation.PEFT,
}
_OF_A_RECIPE = frozenset(field.name for field in dataclasses.fields(Recipe))


def has_adapter(run: ResolvedRun) -> bool:
    """Tell whether an adapter is trained: one that was asked for, or the one that was named."""
    return run.request.peft is not None or (run.files is not None and run.files.adapter_config is not None)


def is_stored_quantized(files: SourceFiles | None) -> bool:
    """Tell whether the checkpoint declares a quantization."""
    return files is not None and find_declared(files.config) is not None


def find_stored_dtype(files: SourceFiles | None) -> str | None:
    """Return the dtype that weights are loaded in where nobody asks for one, None where no source says it."""
    if files is None:
        return None
    text = files.config.get("text_config")
    of_text = text.get("dtype", text.get("torch_dtype")) if isinstance(text, Mapping) else None
    found = files.config.get("dtype", files.config.get("torch_dtype")) or of_text or files.checkpoint_dtype
    return str(found).removeprefix("torch.") if found else None


def expand_segments(run: ResolvedRun) -> Change | None:
    """Let segments grow: one stretch of addresses instead of pieces, which costs nothing (torch's own advice)."""
    if run.allocator.expandable_segments:
        return None
    settings = (run.request.recipe.alloc_conf, "expandable_segments:True")
    return {"alloc_conf": ",".join(filter(None, settings))}


def apply_change(request: Request, change: Change) -> Request:
    """Return the request with a change made."""
    recipe = {name: value for name, value in change.items() if name in _OF_A_RECIPE}
    others = {name: value for name, value in change.items() if name not in _OF_A_RECIPE}
    changed = dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, **recipe), **others)
    return follow_packing(changed) if {"quantization", "peft"} & set(change) else changed


def format_options(change: Change) -> str:
    """Return a change as options of the command; what it leaves at its default is not said."""
    return " ".join(filter(None, (_format_option(name, value) for name, value in change.items())))


def format_change(request: Request, change: Change) -> str:
    """Return what a change adds to the options of a request, and what has to go."""
    new = {name: value for name, value in change.items() if value != _read(request, name)}
    text = format_options(new)
    packed = request.quantization not in (None, Quantization.NONE)
    if not packed or new.get("quantization", request.quantization) is not None:
        return text
    return f"{text} without --quantization{' and --double-quant' if request.double_quant else ''}".strip()


def is_of_recipe(name: str) -> bool:
    """Tell whether a change of this name is one of the recipe."""
    return name in _OF_A_RECIPE


def _read(request: Request, name: str) -> Any:
    """Return the present value of what a change names."""
    return getattr(request.recipe if name in _OF_A_RECIPE else request, name)


def _format_option(name: str, value: object) -> str:
    if name == "autocast_adapter_dtype":
        return "" if value else "--no-autocast-adapter-dtype"
    if value in (AdapterDtype.AUTO, Preparation.PEFT):
        return ""
    if name == "gradient_checkpointing" and value is False:
        return "--no-gradient-checkpointing"
    if value in (None, False):
        return ""
    if isinstance(value, LoraOptions):
        return f"--lora r={value.r} --targets {value.targets}"
    option = f"--{name.replace('_', '-')}"
    return option if value is True else f"{option} {value}"
