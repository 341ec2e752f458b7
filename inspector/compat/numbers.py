"""The numbers that a class keeps as tensors: strides, counters. On meta they would have no value, and code reads them.

`self.stride = nn.Buffer(torch.tensor(stride))` is an integer without a dimension. Each one that is made while a model
is built is worked out on the CPU as well, where it follows from others.

What torch's layers draw for their weights is left out on the way: on meta it sets nothing, and takes half of the time.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from inspector.compat.torch import tree_map

__all__ = ["RememberNumbers", "find_number", "pass_number_on"]

_NUMBERS: WeakIdKeyDictionary = WeakIdKeyDictionary()
# What draws or sets weights in place and returns them.
_FILLS = frozenset(
    {
        *(init.uniform_, init.normal_, init.constant_, init.kaiming_uniform_, init.kaiming_normal_),
        *(Tensor.uniform_, Tensor.normal_),
    }
)


def find_number(tensor: Tensor) -> Tensor | None:
    """Return the value that a tensor was made with while its model was built, None where it is not known."""
    value: Tensor | None = _NUMBERS.get(tensor)
    return value


def pass_number_on(original: Tensor, copied: Tensor) -> None:
    """Let the copy of a tensor have its value."""
    if (value := find_number(original)) is not None:
        _NUMBERS[copied] = value


class RememberNumbers(TorchFunctionMode):
    """Remember the integers without a dimension that are made on meta inside the block."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run a function, and once more on the CPU where it returns such a number."""
        kwargs = kwargs or {}
        if func in _FILLS:
            filled = args[0] if args else kwargs.get("tensor")
            if isinstance(filled, Tensor) and filled.is_meta and filled.is_floating_point():
                return filled
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_meta and result.dim() == 0 and not result.is_floating_point():
            # Of a function that needs what is not known; what is asked of it later has no value then.
            with contextlib.suppress(Exception), torch.device("cpu"):
                known_args, known_kwargs = tree_map(_replace, (args, kwargs))
                _NUMBERS[result] = func(*known_args, **known_kwargs)
        return result


def _replace(leaf: Any) -> Any:
    """Return the value of a number, and the CPU for meta; KeyError for another tensor on meta."""
    if isinstance(leaf, Tensor) and leaf.is_meta:
        return _NUMBERS[leaf]
    return torch.device("cpu") if leaf == "meta" or leaf == torch.device("meta") else leaf
