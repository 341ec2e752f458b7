"""Fields of a PEFT configuration that match nothing, of which PEFT is silent or warns where nobody looks.

Covered: the keys of rank_pattern, alpha_pattern and their like, exclude_modules, feedforward_modules,
layers_to_transform, layers_pattern and alora_invocation_tokens. Names among the targets that hit nothing are in
`AdapterFacts`. PEFT's own warnings are not passed on: it also warns of patterns that it made and that are in force.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import check_target_module_exists
from transformers import PreTrainedModel

from inspector.errors import quoted
from inspector.model.adapter.config import list_names, name_method
from inspector.model.adapter.layers import find_unused_patterns, list_indices
from inspector.model.adapter.patterns import matches_key
from inspector.model.adapter.peft_names import ends_with, find_adapted_layers, list_base_modules
from inspector.model.adapter.targets import list_leaves
from inspector.model.patterns import is_plain
from inspector.names import fold_indices, near_names
from inspector.records.notice import Notice

__all__ = ["describe_unused"]

# A state that AdaLoRA saves under names of parameters, and no patterns.
_NO_PATTERNS = {"ADALORA": ("rank_pattern",)}


def describe_unused(model: PeftModel, config: PeftConfig) -> Iterator[Notice]:
    """Name each entry of a field that matches nothing in the model."""
    adapted = [name for name, _ in find_adapted_layers(model)]
    if not adapted:
        return
    modules = list(list_base_modules(model))
    for message in (
        *_find_keys(config, adapted),
        *_find_exclusions(model, config, modules),
        *_find_feedforward(config, adapted),
        *_find_layers(model, config, modules),
        *_find_tokens(model, config),
    ):
        yield Notice(code="peft-field-unused", message=message)


def _find_keys(config: PeftConfig, adapted: Sequence[str]) -> Iterator[str]:
    """Yield what is to be said of keys of a pattern field that hit no adapted module."""
    method = name_method(config)
    for field, keys in vars(config).items():
        if not field.endswith("_pattern") or not isinstance(keys, Mapping) or field in _NO_PATTERNS.get(method, ()):
            continue
        for key in keys:
            if not any(matches_key(method, key, name) for name in adapted):
                near = near_names(re.sub(r"\W", "", key.rpartition(".")[2]), list_leaves(adapted))
                meant = f" Did you mean {quoted(near[0])}?" if near else ""
                yield f"{quoted(key)} in {field} hits no target: its value is not used.{meant}"


def _find_exclusions(model: PeftModel, config: PeftConfig, modules: Sequence[str]) -> Iterator[str]:
    """Yield what is to be said of entries of exclude_modules that exclude no target.

    An entry that excludes what is no target anyway is no mistake; one that names a module with targets inside is.
    """
    excluded = getattr(config, "exclude_modules", None)
    if not excluded:
        return
    used = copy.copy(model.active_peft_config)
    used.exclude_modules = None
    for entry in [excluded] if isinstance(excluded, str) else list_names(config, "exclude_modules"):
        if isinstance(excluded, str):
            hit = [name for name in modules if re.fullmatch(entry, name)]
        else:
            hit = [name for name in modules if ends_with(name, entry)]
        inside = [
            name
            for name in modules
            if name not in hit and any(name.startswith(f"{path}.") for path in hit)
            if check_target_module_exists(used, name)
        ]
        what = f"{quoted(entry)} in exclude_modules excludes no target"
        if not hit and not isinstance(excluded, str) and not is_plain(entry):
            yield f"{what}: entries of a list are ends of paths, not patterns; a pattern is one string."
        elif not hit:
            near = near_names(entry.rpartition(".")[2], list_leaves(modules))
            yield f"{what}: no module has that name.{f' Did you mean {quoted(near[0])}?' if near else ''}"
        elif inside and not any(check_target_module_exists(used, name) for name in hit):
            pattern = f"{entry}.*" if isinstance(excluded, str) else f".*{re.escape(entry)}.*"
            yield (
                f"{what}: it is the name of a module, and what is inside keeps its adapter; to exclude that, write the "
                f'string "{pattern}".'
            )


def _find_feedforward(config: PeftConfig, adapted: Sequence[str]) -> Iterator[str]:
    """Yield what is to be said of IA3's feedforward_modules that are no target."""
    value = getattr(config, "feedforward_modules", None)
    for entry in [value] if isinstance(value, str) else list_names(config, "feedforward_modules"):
        if isinstance(value, str):
            hit = any(re.fullmatch(entry, name) for name in adapted)
        else:
            hit = any(ends_with(name, entry) for name in adapted)
        if not hit:
            yield f"{quoted(entry)} in feedforward_modules hits no target: nothing is scaled before its product for it."


def _find_layers(model: PeftModel, config: PeftConfig, modules: Sequence[str]) -> Iterator[str]:
    """Yield what is to be said of layers that are not there, and of names that are those of no list of layers."""
    asked = getattr(config, "layers_to_transform", None)
    indices = [asked] if isinstance(asked, int) else [index for index in asked or () if isinstance(index, int)]
    if not indices:
        return
    used = copy.copy(model.active_peft_config)
    used.layers_to_transform = None
    there = list_indices(config, (name for name in modules if check_target_module_exists(used, name)))
    beyond = sorted({index for index in indices if index not in there})
    if beyond and there:
        yield (
            f"layers_to_transform has {fold_indices(beyond) if min(beyond) >= 0 else ', '.join(map(str, beyond))}, "
            f"where no target is: targets are in the layers {fold_indices(there)}."
        )
    for pattern in find_unused_patterns(config, modules):
        yield f"{quoted(pattern)} in layers_pattern is the name of no list of layers."


def _find_tokens(model: PeftModel, config: PeftConfig) -> Iterator[str]:
    """Yield what is to be said of invocation tokens that no batch can have: aLoRA is never switched on then."""
    tokens = getattr(config, "alora_invocation_tokens", None) or ()
    embedding: Any = cast(PreTrainedModel, model.get_base_model()).get_input_embeddings() if tokens else None
    rows = 0 if embedding is None else embedding.weight.shape[0]
    beyond = [token for token in tokens if isinstance(token, int) and not 0 <= token < rows]
    if beyond:
        yield (
            f"alora_invocation_tokens has {beyond[0]}, and the vocabulary ends at {rows - 1:,}: the adapter is never "
            "switched on."
        )
