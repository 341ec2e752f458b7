"""Layers and frames that a class leaves out at random while it trains: a trace runs what takes the most.

`if torch.rand([]) < self.layerdrop` would make each trace another one. Where a class asks for that, its probability is
nought for as long as a trace runs. Models of speech hide spans of frames (SpecAugment): as many as can be drawn, side
by side, where a real step has up to one fewer, and spans that overlap.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy
from torch import nn

from inspector.runtime.patches import replace_attribute

__all__ = ["find_layer_drop", "hide_most_frames", "keep_all_layers"]

_HIDING = "_compute_mask_indices"
_NAME = re.compile(r"(\w+_)?layerdrop$")


def find_layer_drop(model: nn.Module) -> float:
    """Return how probable it is at most that a layer is left out."""
    return max((value for _, _, value in _list_probabilities(model)), default=0.0)


def keep_all_layers(model: nn.Module) -> None:
    """Run all layers until the innermost `restore_changes` block ends."""
    for owner, name, _ in list(_list_probabilities(model)):
        replace_attribute(owner, name, 0.0)


def hide_most_frames(model: nn.Module) -> None:
    """Hide as many frames as a real step may until the innermost `restore_changes` block ends."""
    for name in {type(module).__module__ for module in model.modules()}:
        code = sys.modules.get(name)
        if code is not None and hasattr(code, _HIDING):
            replace_attribute(code, _HIDING, _hide_most)


def _hide_most(
    shape: tuple[int, int],
    mask_prob: float,
    mask_length: int,
    attention_mask: Any = None,  # says which frames are there: all of them
    min_masks: int = 0,
) -> numpy.ndarray[Any, Any]:
    """Return a mask [rows, frames] with the most spans, as transformers' `_compute_mask_indices` counts them."""
    rows, frames = shape
    spans = max(math.ceil(mask_prob * frames / mask_length), min_masks)
    hidden = numpy.zeros((rows, frames), dtype=bool)
    hidden[:, : min(spans, frames // mask_length) * mask_length] = True
    return hidden


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
