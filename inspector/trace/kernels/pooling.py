"""Pools, scaled images and what is rolled: copies of what is not stored as the kernel takes it, rolls on the way.

Sources: ATen/native/cuda/DilatedMaxPool2d.cu, AveragePool2d.cu, AdaptiveAveragePooling.cu, UpSample*.cu and
ATen/native/TensorTransformations.h (`roll_common`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from inspector.trace.kernels.registry import Scratch, kernel
from inspector.trace.memory_format import find_memory_format

__all__: list[str] = []

aten = torch.ops.aten


@kernel(aten.max_pool2d_with_indices.default, aten.avg_pool2d.default)
def _pool(scratch: Scratch, values: Tensor, *_: Any) -> None:
    """Copy an input that is neither contiguous nor has its channels innermost."""
    _copy(scratch, values, find_memory_format(values))


@kernel(aten.max_pool2d_with_indices_backward.default, aten.avg_pool2d_backward.default)
def _pool_backward(scratch: Scratch, grad: Tensor, values: Tensor, *_: Any) -> None:
    """Copy the input again, and a gradient that is not stored as it is."""
    _copy(scratch, values, find_memory_format(values))
    _copy(scratch, grad, find_memory_format(values))


@kernel(aten._adaptive_avg_pool2d.default, allocates_outputs=True)
def _pool_to_size(scratch: Scratch, values: Tensor, *_: Any) -> None:
    """Copy such an input before the output is made."""
    _copy(scratch, values, find_memory_format(values))
    scratch.outputs()


@kernel(aten._adaptive_avg_pool2d_backward.default)
def _pool_from_size(scratch: Scratch, grad: Tensor, *_: Any) -> None:
    """Copy a gradient that is neither contiguous nor has its channels innermost."""
    _copy(scratch, grad, find_memory_format(grad))


@kernel(aten.upsample_nearest2d.default, aten._upsample_nearest_exact2d.default)
def _scale(scratch: Scratch, values: Tensor, size: Sequence[int], *_: Any) -> None:
    """Copy such an image, unless nothing is scaled."""
    if list(values.shape[2:]) != list(size):
        _copy(scratch, values, find_memory_format(values))


@kernel(
    aten.upsample_nearest2d_backward.default,
    aten._upsample_nearest_exact2d_backward.default,
    aten.upsample_bilinear2d_backward.default,
)
def _scale_back(scratch: Scratch, grad: Tensor, _output: Sequence[int], size: Sequence[int], *_: Any) -> None:
    """Copy such a gradient, unless nothing was scaled."""
    if list(grad.shape) != list(size):
        _copy(scratch, grad, find_memory_format(grad))


@kernel(aten.upsample_bicubic2d_backward.default, aten.upsample_linear1d_backward.default)
def _scale_smoothly_back(scratch: Scratch, grad: Tensor, *_: Any) -> None:
    """Copy a gradient that is not contiguous."""
    _copy(scratch, grad, torch.contiguous_format)


@kernel(aten.roll.default, allocates_outputs=True)
def _roll(scratch: Scratch, values: Tensor, _shifts: Sequence[int], dims: Sequence[int] = ()) -> None:
    """Roll one dimension after the other, each time into a tensor of its own; what is not contiguous is copied."""
    size = values.numel() * values.element_size()
    copy = None if values.is_contiguous() else scratch.take(size)
    on_the_way = []
    for _ in range(len(dims) - 1):
        on_the_way.append(scratch.take(size))
        if copy is not None:
            scratch.give(copy)
            copy = None
    scratch.outputs()
    for block in reversed(on_the_way):
        scratch.give(block)


def _copy(scratch: Scratch, tensor: Tensor, layout: torch.memory_format) -> None:
    """Take a copy of a tensor that is not stored as it has to be."""
    if not tensor.is_contiguous(memory_format=layout):
        scratch.take(tensor.numel() * tensor.element_size())
