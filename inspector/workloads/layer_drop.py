"""Layers that a class leaves out at random while it trains: a trace runs all of them, which takes the most.

`if torch.rand([]) < self.layerdrop` would make each trace another one. Where a class asks for that, its probability is
nought for as long as a trace runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from inspector.runtime.patches import replace_attribute

__all__ = ["find_layer_drop", "keep_all_layers"]

_NAME = re.compile(r"(\w+_)?layerdrop$")


def find_layer_drop(model: nn.Module) -> float:
    """Return how probable it is at most that a layer is left out."""
    return max((value for _, _, value in _list_probabilities(model)), default=0.0)


def keep_all_layers(model: nn.Module) -> None:
    """Run all layers until the innermost `restore_changes` block ends."""
    for owner, name, _ in list(_list_probabilities(model)):
        replace_attribute(owner, name, 0.0)


def _list_probabilities(model: nn.Module) -> Iterator[tuple[Any, str, float]]:
    """Yield the modules and configurations with such a probability, each once, its name and what it is."""
    owners: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        owners |= {id(owner): owner for owner in (module, config) if hasattr(owner, "__dict__")}
    for owner in owners.values():
        for name, value in vars(owner).items():
            if isinstance(value, float) and 0 < value < 1 and _NAME.match(name):
                yield owner, name, value
