"""A boolean mask as an index, `hidden[labels != -100]`: the places where it holds stand for it.

torch looks them up inside of the op (ATen/native/IndexingUtils.h, `expandTensors`), where no dispatch mode sees it:
`nonzero` allocates them, a row for each place, and its columns are the indices. On meta it refuses.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inspector.trace.shadow import NO_VALUE, Shadows

__all__ = ["broadcast_mask", "has_places", "is_mask", "replace_masks", "selects_all"]

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


def selects_all(shadows: Shadows, mask: Tensor, sizes: Sequence[int]) -> bool:
    """Tell whether a mask is known to hold for as many places as a source of some sizes has elements.

    The backward pass of `masked_scatter` selects its gradient by the mask (native/TensorAdvancedIndexing.cpp).
    """
    count = shadows.run(aten.sum.default, (mask,), {})
    return count is not NO_VALUE and int(count) == math.prod(sizes)


def is_mask(index: Any) -> bool:
    """Tell whether an index is a mask on meta."""
    return isinstance(index, Tensor) and index.is_meta and index.dtype is torch.bool


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
