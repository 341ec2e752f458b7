"""Private names that a model on several cards is placed, moved and stepped with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.utils._foreach_utils
from torch import Tensor, nn
from transformers.loss import loss_utils

from inspector.compat.names import private
from inspector.runtime.patches import replace_attribute

__all__ = ["find_device_map", "list_kept_in_place", "replace_cross_entropy", "replace_grouping"]

_find_map: Any = private(
    "transformers.integrations.accelerate._get_device_map",
    purpose="a model on several cards",
    instead="what makes a device map of `auto`",
)
_group: Any = private(
    "torch.utils._foreach_utils._group_tensors_by_device_and_dtype",
    purpose="a model on several cards",
    instead="what groups the tensors of an optimizer by their device",
)
# Modules that have the name for themselves.
_USERS = ("torch.optim.optimizer", "torch.nn.utils.clip_grad", "torch.utils._foreach_utils")


def find_device_map(model: nn.Module, how: str, memory: Mapping[int | str, int]) -> dict[str, Any]:
    """Return where transformers puts the modules of a model on cards of some memory."""
    found: dict[str, Any] = _find_map(model, how, dict(memory), None)
    return found


def list_kept_in_place(model: nn.Module) -> frozenset[str]:
    """Return the names of arguments that accelerate's hooks leave where they are."""
    names = getattr(model, "_skip_keys_device_placement", None) or ()
    return frozenset((names,) if isinstance(names, str) else names)


def replace_cross_entropy(move: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Have labels moved to the card of the logits, until the innermost block of changes ends."""
    before = loss_utils.fixed_cross_entropy

    def compute(source: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return before(source, move(target, source), *args, **kwargs)

    replace_attribute(loss_utils, "fixed_cross_entropy", compute)


def replace_grouping(find_card: Callable[[Tensor], int]) -> None:
    """Have the tensors of an optimizer grouped by card, until the innermost block of changes ends."""

    def group(lists: list[list[Any]], with_indices: bool = False) -> dict[Any, Any]:  # torch's
        cards: dict[int, list[int]] = {}
        for index, tensor in enumerate(lists[0]):
            cards.setdefault(find_card(tensor), []).append(index)
        groups: dict[Any, Any] = {}
        for card, places in sorted(cards.items()):
            part = [[items[place] for place in places] if items else items for items in lists]
            for (_, dtype), (tensors, indices) in _group(part, with_indices).items():
                # A number that is sent to it is copied, to the card of its index.
                device = torch.device("meta", card) if card else torch.device("meta")
                groups[device, dtype] = tensors, [places[index] for index in indices]
        return groups

    for name in _USERS:
        replace_attribute(sys.modules[name], "_group_tensors_by_device_and_dtype", group)
