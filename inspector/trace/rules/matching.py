"""Which prediction is matched with which object, where a loss asks: costs follow floating-point data.

Losses of detection and of segmentation bring the costs of all pairs to the host, and scipy finds the cheapest matching
there. Predictions are taken to be matched with objects in turn. As many pairs come of it as of any matching, and
nothing of them but their number decides what is allocated. scipy itself need not be installed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers.image_transforms import center_to_corners_format

from inspector.compat.transformers import take_scipy_as_installed
from inspector.runtime.patches import replace_attribute

__all__ = ["match_in_turn"]

_NAME, _CORNERS = "linear_sum_assignment", "center_to_corners_format"
# Where transformers asks for it.
_LOSSES = ("transformers.loss.", "transformers.models.")


@contextlib.contextmanager
def match_in_turn(note: Callable[[], None]) -> Iterator[None]:
    """Match predictions and objects in turn inside the block; `note` is told each time."""
    original = Tensor.cpu

    def bring(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if tensor.is_meta and tensor.is_floating_point():
            return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        return original(tensor, *args, **kwargs)

    def match(costs: Any) -> tuple[Any, Any]:
        note()
        return _match(costs)

    with take_scipy_as_installed():
        replace_attribute(Tensor, "cpu", bring)
        for name, module in tuple(sys.modules.items()):
            if name.startswith(_LOSSES) and _asks_for_matching(module):
                replace_attribute(module, _NAME, match)
            if name.startswith(_LOSSES[0]) and not hasattr(module, _CORNERS):  # imported with PIL alone
                replace_attribute(module, _CORNERS, center_to_corners_format)
        yield


def _asks_for_matching(module: Any) -> bool:
    """Tell whether code of a module matches."""
    own = (item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__)
    return any("HungarianMatcher" in item.__name__ for item in own)


def _match(costs: Any) -> tuple[Any, Any]:
    """Return as many pairs as there are predictions or objects, whichever are fewer."""
    pairs = numpy.arange(min(costs.shape))
    return pairs, pairs.copy()
