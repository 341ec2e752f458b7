"""Values for the integer and boolean tensors of a step whose other tensors have none.

Control flow reads small tensors: a mask asks `.all()`, packed sequences compare position ids, a router calls `nonzero`.
Meta tensors refuse. Each integer or boolean tensor therefore gets a shadow, a real tensor on the CPU, as long as its
value follows from other shadows alone: the same op runs on the shadows. Views of shadows are views, in-place ops change
them in place. What depends on floating-point data has no shadow.

Not covered: tensors of more than `LARGEST_SHADOW` elements, whose values nothing in a step reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["LARGEST_SHADOW", "NO_VALUE", "Shadows"]

# A mask of 8,192 x 8,192; nothing in a step reads a larger tensor.
LARGEST_SHADOW = 2**26


class _NoValue:
    """The value of what has none; None is a value that ops return."""


NO_VALUE = _NoValue()
_FLOATING = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


class Shadows:
    """The shadow of each tensor that has one, for as long as the tensor lives."""

    def __init__(self) -> None:
        self._values: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def set(self, tensor: Tensor, value: Tensor) -> None:
        """Give `tensor` a value."""
        self._values[tensor] = value

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run an op on the shadows of its arguments; NO_VALUE when one of them has none or the result would be data."""
        leaves = tree_leaves((args, dict(kwargs)))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.device.type == "meta"]
        if not tensors and not self._makes_integers(leaves, kwargs):
            return NO_VALUE
        if any(tensor not in self._values or tensor.numel() > LARGEST_SHADOW for tensor in tensors):
            return NO_VALUE
        shadow_args, shadow_kwargs = tree_map(self._shadow, (args, dict(kwargs)))
        return func(*shadow_args, **shadow_kwargs)

    def keep(self, result: Any, value: Any) -> None:
        """Remember the values of what an op returned; floating-point results get none."""
        if isinstance(result, Tensor):
            if isinstance(value, Tensor) and value.dtype not in _FLOATING and value.numel() <= LARGEST_SHADOW:
                self._values[result] = value
        elif isinstance(result, (tuple, list)):
            for item, item_value in zip(result, value, strict=True):
                self.keep(item, item_value)

    def _makes_integers(self, leaves: list[Any], kwargs: Mapping[str, Any]) -> bool:
        """Tell whether an op without tensor arguments makes an integer or boolean tensor on meta."""
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        if device is None or torch.device(device).type != "meta" or dtype in _FLOATING:
            return False
        if dtype is None and any(isinstance(leaf, float) for leaf in leaves):
            return False
        sizes = [leaf for leaf in leaves if isinstance(leaf, int) and not isinstance(leaf, bool)]
        return all(abs(size) <= LARGEST_SHADOW for size in sizes)

    def _shadow(self, leaf: Any) -> Any:
        """Return what stands for an argument: the shadow of a meta tensor, the CPU for the meta device."""
        if isinstance(leaf, Tensor) and leaf.device.type == "meta":
            return self._values[leaf]
        if isinstance(leaf, torch.device) and leaf.type == "meta":
            return torch.device("cpu")
        return leaf
