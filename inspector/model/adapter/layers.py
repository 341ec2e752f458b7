"""Which layers of a stack PEFT adapts: `layers_to_transform` and `layers_pattern` held against the names of a model.

Source: PEFT 0.21, tuners/tuners_utils.py (`check_target_module_exists`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from peft import PeftConfig

from inspector.names import fold_indices

__all__ = ["describe_layers", "find_unused_patterns", "list_indices", "list_layer_patterns"]

_ANY_STACK = r".*?\.[^.]*\.(?P<idx>\d+)\."


def list_layer_patterns(config: PeftConfig) -> list[str]:
    """Return the names of lists of layers that a configuration gives; none where any will do."""
    value = getattr(config, "layers_pattern", None) or []
    return [value] if isinstance(value, str) else [text for text in value if isinstance(text, str)]


def list_indices(config: PeftConfig, names: Iterable[str]) -> list[int]:
    """Return the layers that modules of these names are in, as PEFT reads their numbers."""
    patterns = [rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\." for pattern in list_layer_patterns(config)] or [_ANY_STACK]
    found = set()
    for name in names:
        match = next(filter(None, (re.match(pattern, name) for pattern in patterns)), None)
        if match is not None:
            found.add(int(match["idx"]))
    return sorted(found)


def find_unused_patterns(config: PeftConfig, names: Iterable[str]) -> list[str]:
    """Return the entries of layers_pattern that are the name of no list of layers."""
    known = list(names)
    return [
        pattern
        for pattern in list_layer_patterns(config)
        if not any(re.match(rf"(?:^|.*?\.){pattern}\.\d+\.", name) for name in known)
    ]


def describe_layers(config: PeftConfig, names: Iterable[str]) -> str:
    """Return in which layers modules of these names are, to follow a sentence; empty where they are in none."""
    indices = list_indices(config, names)
    return f", which is in the layers {fold_indices(indices)}" if indices else ", which is in no layer"
