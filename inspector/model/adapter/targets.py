"""Names that PEFT was to adapt -> what they are in the model, and what was probably meant."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from peft import PeftConfig
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from inspector.errors import quoted
from inspector.model.adapter.config import LINEAR_NAMES, list_names, name_method
from inspector.model.adapter.conversion import find_conversion, has_conversions
from inspector.model.adapter.patterns import find_whole_matches
from inspector.model.adapter.peft_names import ends_with, list_base_modules
from inspector.names import near_names

__all__ = ["explain_name", "is_linear", "list_leaves", "list_linear_leaves", "spell_list", "spell_out_linear"]


def spell_out_linear(config: PeftConfig, model: PreTrainedModel) -> None:
    """Put the names of a model's linear layers into a configuration that stands for them, where PEFT finds others.

    axolotl (loaders/adapter.py, find_all_linear_names) and LLaMA-Factory (model/model_utils/misc.py) list the layers
    that there are, and PEFT's all-linear those of transformers 4, whose experts are parameters now.
    """
    if getattr(config, "target_modules", None) != LINEAR_NAMES:
        return
    head = model.get_output_embeddings()
    linear = [path for path, module in model.named_modules() if is_linear(module) and module is not head]
    names = {path.rpartition(".")[2] for path in linear}
    settings: Any = config
    settings.target_modules = names if has_conversions(model) else "all-linear"


def is_linear(module: nn.Module) -> bool:
    """Tell whether PEFT's `all-linear` would count a module as linear."""
    return isinstance(module, (nn.Linear, Conv1D))


def list_leaves(names: Iterable[str]) -> list[str]:
    """Return the last parts of names, numbers left out."""
    return sorted({leaf for leaf in (name.rpartition(".")[2] for name in names) if not leaf.isdigit()})


def list_linear_leaves(model: nn.Module) -> list[str]:
    """Return the last parts of the names of a model's linear layers, whether they carry an adapter already or not."""
    return list_leaves(name for name, module in list_base_modules(model).items() if is_linear(module))


def spell_list(names: Iterable[str]) -> str:
    """Return names as a list in JSON and Python."""
    return json.dumps(list(names), ensure_ascii=False)


def explain_name(model: nn.Module, config: PeftConfig, name: str) -> str:
    """Say what a name is that hit no target: a parameter, a pattern in a list, a typo; empty where nothing is near."""
    modules = list_base_modules(model)
    takes_parameters = hasattr(config, "target_parameters")
    parameters = [path for path, _ in _list_parameters(modules)]
    if name in list_names(config, "target_parameters"):
        near = near_names(name, (".".join(path.split(".")[-(name.count(".") + 1) :]) for path in parameters))
        return f"Did you mean {quoted(near[0])}?" if near else ""
    path = next((path for path in parameters if ends_with(path, name)), None)
    if path is not None:
        if takes_parameters:
            return f"It is a parameter: write target_parameters={spell_list([_shorten(path)])}."
        return f"It is a parameter, and {name_method(config)} adapts modules alone."
    if not name.replace("_", "").replace(".", "").isalnum() and find_whole_matches(name, modules):
        return (
            f"The names in a list are ends of paths, not patterns: write target_modules={quoted(name)} as one string."
        )
    parameter = find_conversion(model, name) if name_method(config) == "LORA" else None
    if parameter is not None:
        return f"PEFT takes it for the parameter {parameter} of experts, which this model does not have."
    leaf = name.rpartition(".")[2]
    near = near_names(leaf, set(list_linear_leaves(model)) - {leaf})
    near = near or near_names(leaf, set(list_leaves(modules)) - {leaf})
    return f"Did you mean {quoted(near[0])}?" if near else ""


def _list_parameters(modules: dict[str, nn.Module]) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters of a base model by their names in it."""
    return [
        (f"{path}.{name}", parameter)
        for path, module in modules.items()
        for name, parameter in module.named_parameters(recurse=False)
    ]


def _shorten(path: str) -> str:
    """Return the end of a path that is the same in all layers."""
    parts = path.split(".")
    last = max((index for index, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(parts[last + 1 :])
