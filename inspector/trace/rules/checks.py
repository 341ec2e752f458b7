"""Checks of numbers that a trace has no values of: they are taken to pass, as in a run that goes on.

Model code and torch's own look for what must not be: `isnan(x).any()`, `(boxes[:, 2:] >= boxes[:, :2]).all()`, the
arguments of a distribution. What compares numbers without values is such a check, and so is what is made of checks by
logic alone. Asked for all, a check holds; asked for any, none does, and neither does one alone. The answers are read by
control flow alone, and a trace with another answer would be that of a run that stops or mends its numbers.

Not covered: control flow that chooses between two ways of a healthy run by its numbers; it takes the second one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from inspector.compat.torch import tree_leaves

__all__ = ["Checks"]

aten = torch.ops.aten

_COMPARING = frozenset(
    op
    for name in ("eq", "ne", "lt", "le", "gt", "ge")
    for op in (getattr(aten, name).Tensor, getattr(aten, name).Scalar)
) | {aten.isnan.default, aten.isinf.default, aten.isfinite.default, aten.isposinf.default, aten.isneginf.default}
_COMBINING = frozenset(
    getattr(getattr(aten, name), overload)
    for name, overloads in {
        **dict.fromkeys(("bitwise_and", "bitwise_or", "mul", "slice"), ("Tensor",)),
        **dict.fromkeys(("logical_and", "logical_or", "logical_not", "bitwise_not"), ("default",)),
        **dict.fromkeys(("view", "expand", "_unsafe_view"), ("default",)),
        **dict.fromkeys(("all", "any"), ("dim", "dims")),
        "select": ("int",),
    }.items()
    for overload in overloads
    if overload in getattr(aten, name).overloads()  # early releases lack some
)
_WRITABLE = 2**16
_ANSWERS = {
    **dict.fromkeys((aten.all.default, aten._is_all_true.default), True),
    **dict.fromkeys((aten.any.default, aten._is_any_true.default), False),
}


class Checks:
    """Which tensors of a trace are checks of numbers without values."""

    def __init__(self) -> None:
        self._checks: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def answer(self, func: Any, args: tuple[Any, ...], result: Any) -> tuple[Tensor, Tensor] | None:
        """Return a result with what it is taken to be, None for what is no answer; note what is a check itself."""
        if not isinstance(result, Tensor) or result.dtype is not torch.bool or not result.is_meta:
            return None
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        if func in _COMPARING:
            if (holds := _find_healthy(func, args)) is not None:
                return result, _fill(result.shape, holds)
            if any(tensor.is_floating_point() for tensor in tensors):
                self._checks[result] = True
            return None
        if not any(tensor in self._checks for tensor in tensors):
            return None
        if func in _COMBINING:
            self._checks[result] = True
        elif func in _ANSWERS:
            return result, torch.tensor(_ANSWERS[func])
        return None

    def read(self, func: Any, args: tuple[Any, ...]) -> bool | None:
        """Return what Python reads of a check that is asked for itself: it does not hold; None for any other op."""
        return False if func is aten._local_scalar_dense.default and args[0] in self._checks else None


def _fill(shape: torch.Size, holds: bool) -> Tensor:
    """Return a mask of one value: what is small can be written to, as `nanmean` does to its own."""
    return torch.full(shape, holds) if shape.numel() <= _WRITABLE else torch.tensor(holds).expand(shape)


def _find_healthy(func: Any, args: tuple[Any, ...]) -> bool | None:
    """Return what holds for every number that is neither infinite nor none, where an op asks for that."""
    if func in (aten.isnan.default, aten.isinf.default, aten.isposinf.default, aten.isneginf.default):
        return False
    if func is aten.isfinite.default:
        return True
    if func in (aten.eq.Tensor, aten.ne.Tensor) and args[0] is args[1]:  # as torch asks for what is no number
        return func is aten.eq.Tensor
    if func in (aten.eq.Scalar, aten.ne.Scalar) and isinstance(args[1], float) and math.isinf(args[1]):
        return func is aten.ne.Scalar
    return None
