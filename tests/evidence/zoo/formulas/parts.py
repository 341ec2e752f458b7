"""The parts that the formulas add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Config", "gated_mlp", "layer_norm", "linear", "plain_mlp", "transformer_layer"]

Config = Mapping[str, Any]


def linear(inputs: int, outputs: int, *, bias: bool = False) -> int:
    """Return a matrix, and a bias for each output."""
    return inputs * outputs + outputs * bias


def layer_norm(size: int) -> int:
    """Return a weight and a bias for each feature."""
    return 2 * size


def gated_mlp(hidden: int, inner: int) -> int:
    """Return gate, up and down without biases (arXiv:2002.05202)."""
    return 3 * hidden * inner


def plain_mlp(hidden: int, inner: int, *, bias: bool) -> int:
    """Return up and down."""
    return linear(hidden, inner, bias=bias) + linear(inner, hidden, bias=bias)


def transformer_layer(hidden: int, inner: int) -> int:
    """Return the layer of the first transformers (arXiv:1706.03762): biases everywhere, two layer norms."""
    return 4 * linear(hidden, hidden, bias=True) + plain_mlp(hidden, inner, bias=True) + 2 * layer_norm(hidden)
