"""Ops of losses and of codecs that are recorded as `kernel_cases` are: what counts in a table, what is nearest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.evidence.stand_in.kernel_cases import FLOAT32, Case, add_forward, numbers, values

LOSSES: dict[str, Case] = {}


def _floats(*shape: int) -> Callable[[str], Tensor]:
    """Return what makes floating-point numbers."""
    return lambda device: values(device, *shape, dtype=FLOAT32)


def _case(name: str, run: Callable[..., Any], *make: Callable[[str], Tensor]) -> None:
    add_forward(LOSSES, name, run, *make)


def _reduce(reduce: str) -> Callable[..., Any]:
    return lambda into, index, source: into.scatter_reduce(0, index, source, reduce, include_self=False)


for reduction in ("mean", "sum", "none"):
    _case(
        f"binary cross entropy, {reduction}",
        lambda logits, labels, how=reduction: functional.binary_cross_entropy_with_logits(
            logits, labels, reduction=how
        ),
        _floats(64, 300),
        _floats(64, 300),
    )
_case(
    "binary cross entropy with weights",
    lambda logits, labels, weight: functional.binary_cross_entropy_with_logits(logits, labels, weight),
    _floats(64, 300),
    _floats(64, 300),
    _floats(300),
)
_case(
    "binary cross entropy with weights of what is there",
    lambda logits, labels, weight: functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight),
    _floats(64, 300),
    _floats(64, 300),
    _floats(300),
)
for how in ("mean", "sum", "amax"):
    _case(
        f"scatter and reduce, {how}",
        _reduce(how),
        _floats(5000),
        lambda device: numbers(device, 3000),
        _floats(3000),
    )
_case("distances of many rows", lambda one, other: torch.cdist(one, other), _floats(1, 300, 16), _floats(1, 200, 16))
_case("distances of few rows", lambda one, other: torch.cdist(one, other), _floats(1, 20, 16), _floats(1, 10, 16))
_case(
    "distances of columns",
    lambda one, other: torch.cdist(one.mT, other),
    _floats(1, 16, 300),
    _floats(1, 200, 16),
)
_case(
    "distances of few columns",
    lambda one, other: torch.cdist(one.mT, other),
    _floats(1, 16, 20),
    _floats(1, 10, 16),
)
