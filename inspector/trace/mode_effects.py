"""What an active dispatch mode changes in what runs, undone.

While a mode is active, composite code takes branches that work out of place (ATen/TensorSubclassLikeUtils.h). Three
such changes are undone here. Autograd adds a second gradient of a tensor in place into the first when nobody else holds
it (torch/csrc/autograd/input_buffer.cpp, `can_accumulate_inplace`; the same two use counts decide here). The backward
of whatever selects values writes into the zeros that it has just made. A number that is assigned to a part of a tensor,
as in `x[:, 0] = 1`, is one of the CPU for CUDA, and one of their own for other devices
(torch/csrc/autograd/python_variable_indexing.cpp). tests/trace shows that what is left equals a real step without any
mode, allocation by allocation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from inspector.compat.torch import (
    current_autograd_node,
    saves_positive_weight,
    storage_address,
    storage_use_count,
    use_count,
)

__all__ = ["RUN_OTHERWISE", "accumulates_in_place", "find_op_without_mode", "is_assigned_number"]

aten = torch.ops.aten

# Use counts of a gradient that only autograd's buffer holds, seen from inside a dispatch mode: of the tensor (the
# buffer, the call and its Python wrapper) and of its storage (the tensor and the Python wrapper asked for the count).
_SOLE_TENSOR_USES = 4
_SOLE_STORAGE_USES = 2


# What a C++ backward formula does in place unless a mode is active: node and op -> the op that runs without one.
_IN_PLACE_WITHOUT_MODE = {
    ("IndexBackward0", aten.index_put.default): aten.index_put_.default,
    ("IndexSelectBackward0", aten.index_add.default): aten.index_add_.default,
    ("GatherBackward0", aten.scatter_add.default): aten.scatter_add_.default,
    # Of the sigmoids that it has just made (FunctionsManual.cpp, binary_cross_entropy_with_logits_backward).
    ("BinaryCrossEntropyWithLogitsBackward0", aten.sub.Tensor): aten.sub_.Tensor,
    ("BinaryCrossEntropyWithLogitsBackward0", aten.mul.Tensor): aten.mul_.Tensor,
    # What selects values (FunctionsManual.cpp, value_selecting_reduction_backward).
    **{
        (f"{name}Backward0", aten.scatter.src): aten.scatter_.src
        for name in ("Topk", "Sort", "Max", "Min", "Median", "Mode", "Kthvalue")
    },
}
RUN_OTHERWISE = frozenset(func for _, func in _IN_PLACE_WITHOUT_MODE)


def accumulates_in_place(old: Any, new: Any) -> bool:
    """Tell whether this is autograd adding a gradient to one that nobody else holds."""
    return (
        not torch.is_grad_enabled()
        and isinstance(new, Tensor)
        and old.shape == new.shape
        and old.dtype == new.dtype
        and current_autograd_node() is not None
        and use_count(old) == _SOLE_TENSOR_USES
        and storage_use_count(storage_address(old.untyped_storage())) == _SOLE_STORAGE_USES
        and _is_dense(old)
    )


def find_op_without_mode(func: Any) -> Any:
    """Return the op that would run if no mode were active."""
    if func not in RUN_OTHERWISE:
        return func
    node = current_autograd_node()
    if node is None or saves_positive_weight(node):
        return func
    return _IN_PLACE_WITHOUT_MODE.get((type(node).__name__, func), func)


def is_assigned_number(func: Any, kwargs: Mapping[str, Any]) -> bool:
    """Tell whether this makes a tensor of a number that Python assigns: `torch.scalar_tensor` says `pin_memory`."""
    return func is aten.scalar_tensor.default and "layout" in kwargs and "pin_memory" not in kwargs


def _is_dense(tensor: Tensor) -> bool:
    """Tell whether a tensor covers its memory without gaps or overlaps, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True
