"""How many weights a parameter stands for, and what it and all that belongs to it weigh.

A packed parameter (bitsandbytes' 4 bits) holds two weights in a byte, with scales beside it; any other parameter is
what it looks like.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

__all__ = ["count_bytes", "count_weights", "find_number", "list_tensors"]


def count_weights(parameter: Tensor) -> int:
    """Return the number of weights, not of the elements that they are packed into."""
    packed: int | None = getattr(parameter, "logical_count", None)
    return parameter.numel() if packed is None else packed


def count_bytes(parameter: Tensor) -> int:
    """Return the bytes of a parameter and, where it is packed, of its scales."""
    return sum(tensor.numel() * tensor.element_size() for tensor in list_tensors(parameter))


def list_tensors(parameter: Tensor) -> Iterator[Tensor]:
    """Yield the parameter's own tensor and those that belong to it."""
    yield parameter.data if isinstance(parameter, nn.Parameter) else parameter
    state = getattr(parameter, "state_tensors", None)
    if state is not None:
        yield from state()


def find_number(config: Any, name: str) -> int | None:
    """Return an integer of a configuration, None where it has none, or one that varies over the layers.

    transformers raises for the latter (integrations/heterogeneity/configuration_utils.py).
    """
    try:
        value = getattr(config, name, None)
    except RuntimeError:
        return None
    return value if isinstance(value, int) else None
