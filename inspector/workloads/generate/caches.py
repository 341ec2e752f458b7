"""What a cache of transformers holds: its layers, and the tensors of each by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

__all__ = ["list_layers", "list_tensors"]


def list_layers(cache: Any) -> list[Any]:
    """Return the layers of a cache, those of an encoder-decoder's two caches one after the other."""
    parts = [getattr(cache, name, None) for name in ("self_attention_cache", "cross_attention_cache")]
    caches = [cache] if parts[0] is None else parts
    return [layer for part in caches if part is not None for layer in getattr(part, "layers", ())]


def list_tensors(layer: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a layer of a cache holds, those in its lists and mappings included."""
    for name, value in vars(layer).items():
        items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        for item in items:
            if isinstance(item, Tensor):
                yield name, item
