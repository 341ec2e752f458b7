"""PEFT's refusal of an adapter -> one line that names the field that is to blame and what to write instead.

PEFT's own words are read for one thing only: whether nothing was targeted, or a module that the method cannot adapt.
Which field is to blame is found by matching again, with PEFT's own rule and one field of the configuration at a time.
The model may be half adapted by then, and the configuration that PEFT was given has its defaults filled in.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

import peft
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING, PeftType
from torch import nn
from transformers import PreTrainedModel

from inspector.errors import UsageError, one_line, quoted
from inspector.model.adapter.config import list_names, name_method
from inspector.model.adapter.layers import describe_layers, find_unused_patterns, list_layer_patterns
from inspector.model.adapter.peft_names import ends_with, list_base_modules, strip_wrappers
from inspector.model.adapter.targets import explain_name, list_leaves, list_linear_leaves, spell_list
from inspector.model.configuration import describe_error
from inspector.names import fold_names, join_names, near_names

__all__ = ["explain_refusal"]

_NOTHING_TARGETED = (
    "not found in the base model",
    "No modules were targeted",
    "All modules were excluded",
    "No `target_modules` passed",
)
_NOT_ADAPTABLE = re.compile(r"Target module .*not supported|Unsupported layer type", re.DOTALL)
# Modules of state spaces whose weights their kernels take as they are (tuners_utils.py).
_OF_STATE_SPACES = re.compile(r"Module '(\w+)' is incompatible with Mamba-based models")
# What leaves targets out, and what PEFT takes for "nothing is left out".
_FILTERS = ("exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern")
# What people put between names and around them where a list is meant.
_SEPARATORS = re.compile(r"[\s,;|]+")
_AROUND = "[](){}'\" "


def explain_refusal(model: PreTrainedModel, asked: PeftConfig, tried: PeftConfig, error: Exception) -> UsageError:
    """Return the refusal of `asked` as an error of one line; `tried` is the configuration that PEFT has changed."""
    text = str(error)
    message = None
    if "specify `target_modules`" in text:
        message = _explain_no_default(model)
    elif any(words in text for words in _NOTHING_TARGETED):
        message = _explain_nothing_targeted(model, asked, tried)
    elif _NOT_ADAPTABLE.search(text):
        message = _explain_not_adaptable(model, asked, tried)
    elif refused := _OF_STATE_SPACES.search(text):
        message = _explain_state_space(model, asked, refused[1])
    return UsageError(
        message
        or f"PEFT refuses {name_method(asked)} on {type(model).__name__} ({describe_error(error)}); "
        "correct the adapter's configuration."
    )


def _explain_no_default(model: PreTrainedModel) -> str:
    return (
        f"PEFT has no default targets for model type {quoted(model.config.model_type)}: add "
        f'`target_modules="all-linear"`, or name some of {_join_linears(model)}.'
    )


def _explain_nothing_targeted(model: PreTrainedModel, asked: PeftConfig, tried: PeftConfig) -> str | None:
    """Say which field leaves nothing to adapt: token tables, targets, or what leaves targets out."""
    name = type(model).__name__
    modules = list_base_modules(model)
    tables = getattr(asked, "trainable_token_indices", None)
    for table in tables if isinstance(tables, Mapping) else ():
        if not any(path.endswith(str(table)) for path in modules):
            near = near_names(str(table), list_leaves(modules))
            step = f". Did you mean {near[0]}?" if near else "; name the module of a token table, such as embed_tokens."
            return f"trainable_token_indices names {quoted(table)}, which is no module of {name}{step}"
    targets = getattr(asked, "target_modules", None)
    parameters = list_names(asked, "target_parameters")
    if not targets and parameters:
        reasons = " ".join(filter(None, (explain_name(model, asked, parameter) for parameter in parameters[:3])))
        step = f". {reasons}" if reasons else "; name parameters that are there, or drop them."
        return f"target_parameters {spell_list(parameters)} match no parameter of {name}{step}"
    if targets is not None and not targets:
        return _explain_empty(model, asked)
    if targets is None and not getattr(tried, "target_modules", None):
        return _explain_lost_defaults(model, asked)
    if not _select(tried, modules, without=_FILTERS):
        if isinstance(targets, str):
            return _explain_string(model, targets)
        return _explain_list(model, asked)
    return _explain_filters(model, asked, tried, modules)


def _explain_empty(model: PreTrainedModel, asked: PeftConfig) -> str:
    """Say that an empty list or string names nothing, and what PEFT takes where it is left out."""
    defaults = _find_defaults(model, asked)
    default = f"leave it out for PEFT's own ({_join_names(defaults)}), " if defaults else ""
    return (
        f'target_modules is empty, which names nothing to adapt: {default}set `target_modules="all-linear"`, or name '
        f"some of {_join_linears(model)}."
    )


def _explain_lost_defaults(model: PreTrainedModel, asked: PeftConfig) -> str:
    """Say that PEFT takes no default targets where it converts names of experts: it makes an empty list of them.

    That is before it reads them. Source: PEFT 0.21, utils/transformers_weight_conversion.py.
    """
    defaults = _find_defaults(model, asked)
    linears = list_linear_leaves(model)
    usual = [name for name in ("q_proj", "v_proj") if name in linears] or linears[:2]
    names = sorted([defaults] if isinstance(defaults, str) else defaults or usual)
    own = f", {_join_names(defaults)}," if defaults else ""
    return (
        f"PEFT {peft.__version__} takes no targets of its own{own} for {type(model).__name__}, whose experts it has "
        f'other names for: name some, `targets={spell_list(names)}`, or all, `targets="all-linear"`.'
    )


def _find_defaults(model: PreTrainedModel, asked: PeftConfig) -> Any:
    """Return the names that PEFT adapts in a type of models where none are asked for, None where it has none."""
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType(name_method(asked)))
    of_ia3 = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING if name_method(asked) == "IA3" else {}
    return getattr(tuner, "target_module_mapping", of_ia3).get(model.config.model_type)


def _explain_string(model: PreTrainedModel, targets: str) -> str:
    """Say that a string is a pattern of the whole path, and write what was probably meant: a list or a pattern."""
    leaves = list_leaves(list_base_modules(model))
    names = [part.strip(_AROUND) for part in _SEPARATORS.split(targets.strip(_AROUND)) if part.strip(_AROUND)]
    meant = [near_names(name, leaves)[:1] for name in names]
    what = f"target {quoted(targets)} matches no module of {type(model).__name__}"
    if names and all(meant):
        best = list(dict.fromkeys(near[0] for near in meant))
        pattern = best[0] if len(best) == 1 else f"({'|'.join(best)})"
        return (
            f"{what}: PEFT takes one string for a pattern that matches the whole path. Write the list "
            rf"{spell_list(best)}, or the pattern .*\.{pattern}."
        )
    linears = list_linear_leaves(model)
    return (
        f"{what}; write a regular expression that matches the whole path, such as "
        rf".*\.({'|'.join(linears[:2])}), or a list of names: {', '.join(linears[:12])}."
    )


def _explain_list(model: PreTrainedModel, asked: PeftConfig) -> str:
    """Say of each name in a list what it is, or which names there are."""
    names = list_names(asked, "target_modules")
    reasons = dict.fromkeys(filter(None, (explain_name(model, asked, name) for name in names)))
    hint = " ".join(list(reasons)[:3]) or f"The linear layers are {_join_linears(model)}: name some."
    return f"target {quoted(', '.join(names))} matches no module of {type(model).__name__}. {hint}"


def _explain_filters(
    model: PreTrainedModel, asked: PeftConfig, tried: PeftConfig, modules: Mapping[str, nn.Module]
) -> str:
    """Say which field leaves nothing of what the targets name."""
    targets = _spell_targets(asked)
    for fields in (("exclude_modules",), ("modules_to_save",), ("layers_to_transform", "layers_pattern")):
        if _select(tried, modules, without=[field for field in _FILTERS if field not in fields]):
            continue
        value = getattr(asked, fields[0])
        if fields == ("exclude_modules",):
            return f"exclude_modules {_spell(value)} leaves nothing of {targets}: exclude less, or name other targets."
        if fields == ("modules_to_save",):
            return (
                f"modules_to_save {_spell(value)} leaves nothing of {targets}: a module is trained whole or adapted, "
                "not both; take it out of one of them."
            )
        unused = find_unused_patterns(asked, modules)
        if unused and len(unused) == len(list_layer_patterns(asked)):
            stacks = [path.rpartition(".")[2] for path, module in modules.items() if isinstance(module, nn.ModuleList)]
            return (
                f"layers_pattern {_spell(unused)} is the name of no list of layers in "
                f"{type(model).__name__}, so that layers_to_transform leaves nothing of {targets}: write "
                f"{_join_names(dict.fromkeys(stacks)) or 'another'}, or leave it out."
            )
        there = describe_layers(tried, _select(tried, modules, without=_FILTERS))
        return f"layers_to_transform {_spell(value)} leaves nothing of {targets}{there}: correct it."
    used = [field for field in _FILTERS if getattr(asked, field, None)]
    return f"{' and '.join(used)} together leave nothing of {targets}: correct these."


def _explain_not_adaptable(model: PreTrainedModel, asked: PeftConfig, tried: PeftConfig) -> str | None:
    """Name the module that the method cannot adapt, and what leaves out all of its kind."""
    adapted = [strip_wrappers(model, name) for name, module in model.named_modules() if _carries_adapter(module)]
    modules = list_base_modules(model)
    left = [path for path in _select(tried, modules) if path not in adapted]
    if not left:
        return None
    kind = type(modules[left[0]])
    refused = [path for path in left if type(modules[path]) is kind]
    others = [*adapted, *(path for path in left if type(modules[path]) is not kind)]
    more = f" and {len(refused) - 1:,} more" if len(refused) > 1 else ""
    blamed = [name for name in list_names(asked, "target_modules") if ends_with(left[0], name)]
    cause = (
        f"target {quoted(blamed[0] if blamed else _spell_targets(asked))} matches {left[0]}{more} of "
        f"{type(model).__name__}, of type {kind.__name__}, which PEFT's {name_method(asked)} cannot adapt"
    )
    part = next((part for part in left[0].split(".")[:-1] if _tells_apart(part, refused, others)), None)
    if others and part and hasattr(asked, "exclude_modules") and not asked.exclude_modules:
        return f'{cause}: leave these out with exclude_modules=".*{part}.*" in the PEFT configuration (`peft`).'
    linears = [leaf for leaf in list_linear_leaves(model) if leaf not in blamed]
    return f"{cause}; name linear layers: {', '.join(linears[:12])}."


def _explain_state_space(model: PreTrainedModel, asked: PeftConfig, name: str) -> str:
    """Say which module of a state space PEFT refuses, and how to leave it out."""
    named = list_names(asked, "target_modules")
    step = (
        f"take {name} out of the targets"
        if name in named
        else f'leave it out: `targets="all-linear"` `exclude_targets=["{name}"]` (exclude_modules in a PEFT '
        "configuration)"
    )
    return (
        f"PEFT refuses {name_method(asked)} on {name} of {type(model).__name__}, whose weight the kernels of its state "
        f"spaces read past an adapter; {step}."
    )


def _tells_apart(part: str, refused: list[str], others: list[str]) -> bool:
    """Tell whether a part of a path is in the paths of all modules that are refused and of no other."""
    if part.isdigit():
        return False
    return all(part in path.split(".") for path in refused) and not any(part in path for path in others)


def _carries_adapter(module: nn.Module) -> bool:
    return isinstance(module, BaseTunerLayer)


def _select(config: PeftConfig, names: Mapping[str, nn.Module], without: Any = ()) -> list[str]:
    """Return the names that PEFT adapts by `config`, some of its fields left out."""
    chosen = copy.copy(config)
    for field in without:
        if hasattr(chosen, field):
            setattr(chosen, field, None)
    if not getattr(chosen, "target_modules", None):
        return []
    return [name for name in names if check_target_module_exists(chosen, name)]


def _spell_targets(config: PeftConfig) -> str:
    """Return the targets as they were asked for."""
    targets = getattr(config, "target_modules", None)
    if targets is None:
        return "PEFT's default targets"
    return f"target {quoted(targets if isinstance(targets, str) else ', '.join(list_names(config, 'target_modules')))}"


def _spell(value: Any) -> str:
    """Return the value of a field as it was written."""
    return one_line(json.dumps(sorted(value, key=str) if isinstance(value, set) else value, default=str), 100)


def _join_names(names: Any) -> str:
    return join_names([names] if isinstance(names, str) else fold_names(names))


def _join_linears(model: nn.Module) -> str:
    return ", ".join(list_linear_leaves(model)[:12])
