"""Names of experts from transformers 4 among the targets, and what PEFT makes of them.

Since transformers 5 the routed experts of a layer are a few fused parameters. PEFT rewrites a LoRA configuration that
names the modules of before: the names leave `target_modules` and come back as `target_parameters`, with twice the rank
where two matrices became one. A pattern is first taken as the last parts of the names that it matches.

What that leaves behind is silent: linear layers that share a name with an expert's (those of dense layers and of shared
experts) lose their adapter, and a pattern for some layers reaches all of them.

Source: PEFT 0.21, utils/transformers_weight_conversion.py (`_convert_peft_config_moe`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from peft import PeftConfig, PeftModel
from torch import nn

from inspector.compat.peft import converted_expert_names
from inspector.errors import quoted
from inspector.model.adapter.config import list_names
from inspector.model.adapter.peft_names import ends_with, find_adapted_layers, find_saved_modules, list_base_modules
from inspector.names import fold_names, join_names
from inspector.records.notice import Notice
from inspector.units import format_count

__all__ = ["describe_conversion", "find_conversion", "find_converted_names", "has_conversions"]


def has_conversions(model: nn.Module) -> bool:
    """Tell whether PEFT takes some names of modules in a model for parameters."""
    return bool(_list_conversions(model))


def find_conversion(model: nn.Module, name: str) -> str | None:
    """Return the parameter that PEFT takes for a name among the targets of a base model; None for most."""
    return next((new for old, new in _list_conversions(model).items() if ends_with(name, old)), None)


def find_converted_names(model: PeftModel, asked: PeftConfig) -> dict[str, str]:
    """Return the parameters that PEFT took for names among the targets, by the names that it took them for."""
    used = model.active_peft_config
    remaining, parameters = list_names(used, "target_modules"), list_names(used, "target_parameters")
    found = {}
    for name in _list_asked(model, asked):
        parameter = find_conversion(model.get_base_model(), name)
        if parameter in parameters and name not in remaining:
            found[name] = parameter
    return found


def describe_conversion(model: PeftModel, asked: PeftConfig) -> Iterator[Notice]:
    """Say which names PEFT took for fused parameters, what lost its adapter by that, and what else got one."""
    converted = find_converted_names(model, asked)
    if getattr(asked, "target_modules", None) == "all-linear":
        return
    ranks = getattr(model.active_peft_config, "rank_pattern", None) or {}
    hit = [path for path, _ in find_adapted_layers(model)]
    parts = []
    for parameter in dict.fromkeys(converted.values()):
        if not any(ends_with(path, parameter) for path in hit):
            continue
        names = " and ".join(quoted(name) for name in converted if converted[name] == parameter)
        rank = ranks.get(rf".*\.{re.escape(parameter)}")
        parts.append(f"{names} as the parameter {parameter}{f' with rank {rank}' if rank else ''}")
    if parts and any(name != parameter for name, parameter in converted.items()):
        message = (
            f"PEFT adapts {', '.join(parts)}: these are names of modules in transformers 4, where transformers 5 has "
            "parameters of all experts together."
        )
        yield Notice(code="target-converted", message=message)
    yield from _describe_left_behind(model, asked, converted)
    yield from _describe_widened(model, asked)


def _describe_left_behind(model: PeftModel, asked: PeftConfig, converted: Mapping[str, str]) -> Iterator[Notice]:
    """Name the modules that have a converted name too, or match a converted pattern, and got no adapter."""
    targets = getattr(asked, "target_modules", None)
    pattern = targets if isinstance(targets, str) else None
    reached = [name for name, _ in (*find_adapted_layers(model), *find_saved_modules(model))]
    left = [
        name
        for name in list_base_modules(model)
        if any(ends_with(name, old) for old in converted)
        and (pattern is None or re.fullmatch(pattern, name))
        and not any(f"{path}.".startswith(f"{name}.") or name.startswith(f"{path}.") for path in reached)
    ]
    if left:
        example = f"{left[0]}.weight"
        message = (
            f"{join_names(fold_names(left))} ({format_count(len(left))} modules) get no adapter: PEFT takes "
            f"{', '.join(quoted(name) for name in sorted(converted))} for parameters of the experts alone; "
            f"target_parameters reaches these by their weights, as {quoted(example)}."
        )
        yield Notice(code="converted-left-out", message=message)


def _describe_widened(model: PeftModel, asked: PeftConfig) -> Iterator[Notice]:
    """Say when a pattern was taken as the last parts of names, and so reaches what it does not match."""
    pattern = getattr(asked, "target_modules", None)
    names = list_names(model.active_peft_config, "target_modules")
    if not isinstance(pattern, str) or pattern.lower() == "all-linear" or not _list_conversions(model):
        return
    if isinstance(model.active_peft_config.target_modules, str):
        return
    beyond = [
        path
        for path, _ in find_adapted_layers(model)
        if not any(re.fullmatch(pattern, name) for name in _list_names_before(model, path))
    ]
    if beyond:
        message = (
            f"PEFT takes the pattern {quoted(pattern, 60)} for the names {', '.join(map(quoted, sorted(names)))} in "
            f"this model: {join_names(fold_names(beyond))} ({format_count(len(beyond))} of what it adapts) do not "
            "match it. Give names and layers_to_transform in its place."
        )
        yield Notice(code="pattern-widened", message=message)


def _list_asked(model: PeftModel, asked: PeftConfig) -> list[str]:
    """Return the names among the targets, those of a pattern included that PEFT takes it for."""
    if isinstance(getattr(asked, "target_modules", None), str):
        return list(_list_conversions(model))
    return sorted(list_names(asked, "target_modules"))


def _list_names_before(model: PeftModel, path: str) -> list[str]:
    """Return the names under which a pattern may mean what is adapted: its own, and those of transformers 4."""
    owner, _, last = path.rpartition(".")
    return [path, *(f"{owner}.{old}" for old, new in _list_conversions(model).items() if new == last)]


def _list_conversions(model: nn.Module) -> Mapping[str, str]:
    """Return the parameters that PEFT takes for names of modules in this model, by these names."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return converted_expert_names(getattr(getattr(base, "config", None), "model_type", None))
