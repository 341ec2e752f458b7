"""Ops whose results follow from values that are known: shapes that depend on data, and numbers that Python reads.

Models of images and text read small integers on the way: how many patches an image has, where its placeholders stand.
These have shadows, and a shadow says what such an op returns. One without a value is refused by torch, as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from inspector.compat.torch import tree_map

__all__ = ["copies_to_host", "follows_values", "is_on_host", "make_like"]

aten = torch.ops.aten


def follows_values(func: Any) -> bool:
    """Tell whether the shape of what an op returns depends on values: nonzero, repeat_interleave, unique and so on."""
    return torch.Tag.dynamic_output_shape in func.tags


def copies_to_host(func: Any, kwargs: Mapping[str, Any]) -> bool:
    """Tell whether an op copies a tensor to the CPU, as `tolist()` does, which then has its values."""
    return func is aten._to_copy.default and _is_host(kwargs.get("device"))


def is_on_host(result: Any) -> bool:
    """Tell whether an op ran on the CPU: its kernel takes nothing of the device."""
    return isinstance(result, Tensor) and not result.is_meta


def make_like(value: Any) -> Any:
    """Return tensors without data as the values are."""
    return tree_map(lambda leaf: torch.empty_like(leaf, device="meta") if isinstance(leaf, Tensor) else leaf, value)


def _is_host(device: Any) -> bool:
    """Tell whether a device is the CPU."""
    return device is not None and torch.device(device).type == "cpu"
