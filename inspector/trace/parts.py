"""Tensors whose parts have values though the whole has none: what is put together along its last dimension.

GLM's indexer puts the mask of a row beside its keys, and takes both apart again: the mask is still the mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from inspector.trace.shadow import Shadows

__all__ = ["Parts"]

aten = torch.ops.aten
# What is cut out of a tensor: the places of the dimension, the begin and the end among an op's arguments.
_CUTTING = frozenset({aten.slice.Tensor, aten.select.int, aten.split_with_sizes.default})


class Parts:
    """The parts of tensors that have values."""

    def __init__(self, shadows: Shadows) -> None:
        self._shadows = shadows
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def see(self, func: Any, args: tuple[Any, ...], result: Any) -> None:
        """Note what an op without a value puts together, and give values to what it cuts out of such a tensor."""
        if func is aten.cat.default:
            self._join(args[0], args[1] if len(args) > 1 else 0, result)
        elif func in _CUTTING and args[0] in self._known:
            whole = args[0]
            parts = self._known[whole]
            if func is aten.slice.Tensor and _is_of_rest(whole, args):
                self._known[result] = parts  # of another dimension, and all of it
                return
            for (begin, end), piece in zip(_find_pieces(func, args), _list(result), strict=False):
                for start, value in parts:
                    inner = value.shape[-1]
                    if start <= begin and end <= start + inner:
                        cut = value.narrow(-1, begin - start, end - begin)
                        self._shadows.set(piece, cut.squeeze(-1) if func is aten.select.int else cut)

    def _join(self, tensors: list[Tensor], dimension: int, result: Tensor) -> None:
        """Note the parts of a tensor that have values, each with where it begins."""
        if not result.is_meta:
            return
        if dimension % max(result.dim(), 1) != result.dim() - 1:
            filled = [tensor for tensor in tensors if tensor.numel()]
            if len(filled) == 1 and filled[0] in self._known:  # put behind nothing, as into an empty cache
                self._known[result] = self._known[filled[0]]
            return
        known, start = list[tuple[int, Tensor]](), 0
        for tensor in tensors:
            value = self._shadows.find(tensor) if tensor.dim() == result.dim() else None
            if value is not None:
                known.append((start, value.to(result.dtype)))
            start += tensor.shape[-1]
        if known:
            self._known[result] = known


def _is_of_rest(whole: Tensor, args: tuple[Any, ...]) -> bool:
    """Tell whether a slice takes all of a dimension that is not the last."""
    dimension = args[1] if len(args) > 1 else 0
    size = whole.shape[dimension]
    begin, end, step = (*args[2:], *(None, None, None))[:3]
    return dimension % whole.dim() != whole.dim() - 1 and not begin and (end is None or end >= size) and not step


def _find_pieces(func: Any, args: tuple[Any, ...]) -> Iterator[tuple[int, int]]:
    """Yield begin and end, along the last dimension, of what an op cuts out; nothing where it cuts another one."""
    whole, size = args[0], args[0].shape[-1]
    dimension = args[2 if func is aten.split_with_sizes.default else 1] if len(args) > 1 else 0
    if dimension % whole.dim() != whole.dim() - 1:
        return
    if func is aten.select.int:
        yield args[2] % size, args[2] % size + 1
    elif func is aten.slice.Tensor:
        begin, end, step = (*args[2:], *(None, None, None))[:3]
        if not step or step == 1:
            begin, end = begin or 0, size if end is None else min(end, size)
            yield begin + (size if begin < 0 else 0), end + (size if end < 0 else 0)
    else:
        begin = 0
        for length in args[1]:
            yield begin, begin + length
            begin += length


def _list(result: Any) -> list[Tensor]:
    """Return the tensors that an op returned."""
    return [result] if isinstance(result, Tensor) else list(result)
