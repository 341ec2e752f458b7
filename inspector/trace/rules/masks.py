"""A boolean mask as an index, `hidden[labels != -100]`: the places where it holds stand for it.

torch looks them up inside of the op (ATen/native/IndexingUtils.h, `expandTensors`), where no dispatch mode sees it:
`nonzero` allocates them, a row for each place, and its columns are the indices. On meta it refuses.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inspector.trace.ops import BRINGING
from inspector.trace.shadow import Shadows

__all__ = ["broadcast_mask", "choose_all", "has_places", "is_mask", "list_brought", "replace_masks", "scatter_back"]

aten = torch.ops.aten


def has_places(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether an op that indexes looks for the places of a mask.

    One value is filled in where the mask holds, without them (native/TensorAdvancedIndexing.cpp,
    `canDispatchToMaskedFill`).
    """
    if not any(map(is_mask, args[1])):
        return False
    accumulates = kwargs.get("accumulate", args[3] if len(args) > 3 else False)
    return func is aten.index.Tensor or accumulates or args[2].numel() != 1


def broadcast_mask(values: Tensor, mask: Tensor, shadows: Shadows) -> tuple[Tensor, list[Tensor]]:
    """Return what `masked_select` indexes, and the mask that it does so with."""
    expand = operator.methodcaller("expand", torch.broadcast_shapes(values.shape, mask.shape))
    return expand(values), [shadows.derive(mask, expand)]


def choose_all(func: Any, result: Any) -> tuple[Tensor, Tensor] | None:
    """Return the answer to which images of a batch are more than padding, with its value: all; None for other ops."""
    if func is not aten.ne.Scalar or result.dim() != 1:
        return None
    return result, torch.ones(result.shape, dtype=torch.bool)


def list_brought(func: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """Return the numbers that an op brings to the GPU; one that is filled in where a mask holds stays on the CPU."""
    if func is aten.index_put_.default and any(map(is_mask, args[1])):
        return []
    return [args[place] for place in BRINGING.get(func, ())]


def is_mask(index: Any) -> bool:
    """Tell whether an index is a mask on meta."""
    return isinstance(index, Tensor) and index.is_meta and index.dtype is torch.bool


def scatter_back(run: Callable[..., Any], grad: Tensor, mask: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the gradient of what `masked_scatter` took: what the mask selects, and zeros for what was not taken.

    `run` runs an op. Source: ATen/native/TensorAdvancedIndexing.cpp, `masked_scatter_backward_symint`.
    """
    taken: Tensor = run(aten.masked_select.default, (grad, mask), {})
    left = math.prod(sizes) - taken.numel()
    if left > 0:
        zeros = run(aten.zeros.default, ([left],), {"dtype": grad.dtype, "device": grad.device})
        taken = run(aten.cat.default, ([taken, zeros],), {})
    return taken.view(sizes)


def replace_masks(indices: Sequence[Tensor | None], places: Sequence[Tensor], shadows: Shadows) -> list[Tensor | None]:
    """Return indices with a column for each dimension of a mask; `places` are what `nonzero` returned for the masks."""
    found, replaced = iter(places), list[Tensor | None]()
    for index in indices:
        if not is_mask(index):
            replaced.append(index)
            continue
        rows = next(found)
        for dimension in range(rows.shape[1]):
            replaced.append(shadows.derive(rows, operator.methodcaller("select", 1, dimension)))
    return replaced
