"""Checks of numbers that a trace has no values of: they are taken to pass, as in a run that goes on.

Model code and torch's own look for what must not be: `isnan(x).any()`, `(boxes[:, 2:] >= boxes[:, :2]).all()`, the
arguments of a distribution. What compares numbers without values is such a check, and so is what is made of checks by
logic alone. Asked for all, a check holds; asked for any, none does, and neither does one alone.

Code also picks numbers out by a check, `x[(x >= 0) & (x < bins)]`. Where two comparisons bound the same numbers from
both sides all are taken to be within; one comparison alone looks for what is special, and finds nothing. How often a
check holds, its sum, is a number of the same kind.

The answers are read by control flow and by shapes alone, and whoever read one is said in the report
(`records.assumptions`). A trace with another answer would be that of a run that stops or mends its numbers.

Not covered: control flow that chooses between two ways of a healthy run by its numbers; it takes the second one.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from inspector.compat.torch import tree_leaves

__all__ = ["Checks"]

aten = torch.ops.aten


def _list_overloads(*names: str) -> frozenset[Any]:
    """Return the two forms of comparisons."""
    return frozenset(op for name in names for op in (getattr(aten, name).Tensor, getattr(aten, name).Scalar))


_FROM_BELOW, _FROM_ABOVE = _list_overloads("gt", "ge"), _list_overloads("lt", "le")
_COMPARING = (
    _FROM_BELOW
    | _FROM_ABOVE
    | _list_overloads("eq", "ne")
    | {aten.isnan.default, aten.isinf.default, aten.isfinite.default, aten.isposinf.default, aten.isneginf.default}
)
_COMBINING = frozenset(
    getattr(getattr(aten, name), overload)
    for name, overloads in {
        **dict.fromkeys(("bitwise_and", "bitwise_or", "mul", "slice"), ("Tensor",)),
        **dict.fromkeys(("logical_and", "logical_or", "logical_not", "bitwise_not"), ("default",)),
        **dict.fromkeys(("view", "expand", "_unsafe_view", "unsqueeze", "clone", "detach", "repeat"), ("default",)),
        **dict.fromkeys(("all", "any"), ("dim", "dims")),
        "select": ("int",),
        "sum": ("default", "dim_IntList"),
    }.items()
    for overload in overloads
    if overload in getattr(aten, name).overloads()  # early releases lack some
)
_BOTH = frozenset({aten.bitwise_and.Tensor, aten.logical_and.default})
_EITHER = frozenset({aten.bitwise_or.Tensor, aten.logical_or.default})
_NOT = frozenset({aten.bitwise_not.default, aten.logical_not.default})
_SUMS = frozenset({aten.sum.default, aten.sum.dim_IntList})
_WRITABLE = 2**16
_ANSWERS = {
    **dict.fromkeys((aten.all.default, aten._is_all_true.default), True),
    **dict.fromkeys((aten.any.default, aten._is_any_true.default), False),
}


@dataclass(frozen=True, slots=True)
class _Check:
    """What is taken to hold everywhere, and the numbers that one comparison alone bounds, with the side it does."""

    holds: bool = False
    bounded: weakref.ref[Tensor] | None = None
    is_from_below: bool = False

    def bounds_with(self, other: _Check) -> bool:
        """Tell whether two comparisons bound the same numbers from both sides."""
        if self.bounded is None or other.bounded is None or self.is_from_below == other.is_from_below:
            return False
        return self.bounded() is not None and self.bounded() is other.bounded()


class Checks:
    """Which tensors of a trace are checks of numbers without values."""

    def __init__(self) -> None:
        self._checks: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def answer(self, func: Any, args: tuple[Any, ...], result: Any) -> tuple[Tensor, Tensor] | None:
        """Return a result with what it is taken to be, None for what is no answer; note what is a check itself."""
        if not isinstance(result, Tensor) or not result.is_meta or result.is_floating_point():
            return None
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        checks = [self._checks[tensor] for tensor in tensors if tensor in self._checks]
        if func in _COMPARING:
            if (holds := _find_healthy(func, args)) is not None:
                return result, _fill(result.shape, holds)
            if checks or any(tensor.is_floating_point() for tensor in tensors):
                is_bound = func in _FROM_BELOW or func in _FROM_ABOVE
                self._checks[result] = _Check(False, weakref.ref(args[0]) if is_bound else None, func in _FROM_BELOW)
            return None
        if not checks:
            return None
        if func in _COMBINING and (result.dtype is torch.bool or func in _SUMS):
            self._checks[result] = _combine(func, checks)
        elif func in _ANSWERS:
            return result, torch.tensor(_ANSWERS[func])
        return None

    def read(self, func: Any, args: tuple[Any, ...]) -> bool | None:
        """Return what Python reads of a check that is asked for itself: it does not hold; None for any other op."""
        return False if func is aten._local_scalar_dense.default and args[0] in self._checks else None

    def find_places(self, mask: Tensor) -> Tensor | None:
        """Return where a check is taken to hold, None for what is none."""
        check: _Check | None = self._checks.get(mask) if mask.dtype is torch.bool else None
        return None if check is None else _fill(mask.shape, check.holds)


def _combine(func: Any, checks: list[_Check]) -> _Check:
    """Return the check that is made of others."""
    if func in _BOTH and len(checks) > 1:
        first, second = checks
        return _Check(first.bounds_with(second) or (first.holds and second.holds))
    if func in _EITHER:
        return _Check(any(check.holds for check in checks))
    if func in _NOT:
        return _Check(not checks[0].holds)
    return checks[0]


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
