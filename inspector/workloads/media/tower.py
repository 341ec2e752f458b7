"""How many tokens an image takes, where the model's own tower says it: it runs once on meta, without gradients."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from inspector.workloads.inputs import BatchError

__all__ = ["count_features"]

_KNOWN: weakref.WeakKeyDictionary[Any, dict[tuple[str, tuple[int, ...]], int]] = weakref.WeakKeyDictionary()


def count_features(model: Any, shape: tuple[int, ...], method: str = "get_image_features") -> int:
    """Return how many features a method of the model makes of one image, or one video, of a shape.

    Raises BatchError where the model has no such method, or its tower lies on a device.
    """
    known = _KNOWN.setdefault(model, {})
    if (method, shape) not in known:
        known[method, shape] = _run(model, shape, method)
    return known[method, shape]


def _run(model: Any, shape: tuple[int, ...], method: str) -> int:
    """Run the tower."""
    find = getattr(model, method, None) or getattr(getattr(model, "model", None), method, None)
    if find is None:
        raise BatchError(f"how many tokens an image takes in {type(model).__name__} is not known here")
    dtype = next((item.dtype for item in model.parameters() if item.is_floating_point()), torch.float32)
    with torch.no_grad():
        features = find(torch.empty(shape, dtype=dtype, device=next(model.parameters()).device))
    found = getattr(features, "pooler_output", None)
    return sum(tensor.numel() // tensor.shape[-1] for tensor in _list_tensors(features if found is None else found))


def _list_tensors(features: Any) -> Iterator[Tensor]:
    """Yield the tensors of features, which are one, or one an image."""
    if isinstance(features, Tensor):
        yield features
    elif isinstance(features, (list, tuple)):
        for item in features:
            yield from _list_tensors(item)
