"""Convolutions: copies of what is not stored as the kernel takes it, and the sum that the bias's gradient is.

cuDNN takes images whose channels are innermost as they are, and makes others so (`inspector.trace.memory_format`).

Not covered: what cuDNN's plans take as workspace, which is chosen at run time; depthwise convolutions in float16, some
of which go through cuDNN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, ops

from inspector.trace.kernels.reductions import reduce
from inspector.trace.kernels.registry import Scratch, kernel
from inspector.trace.memory_format import (
    LINES,
    choose_convolution_format,
    find_memory_format,
    is_native_depthwise,
    view_as_images,
)

__all__: list[str] = []

aten = ops.aten

# Dimensions of a batch of volumes.
_VOLUMES = 5


@kernel(aten.convolution.default, allocates_outputs=True)
def _convolution(scratch: Scratch, values: Tensor, weight: Tensor, *_: Any, **__: Any) -> None:
    """Copy the input before the output is made, and the weight after it (Convolution.cpp; cudnn/ConvShared.cpp)."""
    values, weight, copies = _take_as_images(scratch, values, weight)
    layout = choose_convolution_format(values, weight)
    copies += _copy(scratch, values, layout)
    scratch.outputs()
    _give(scratch, _copy(scratch, weight, layout))
    _give(scratch, copies[::-1])


@kernel(aten.convolution_backward.default, allocates_outputs=True)
def _convolution_backward(scratch: Scratch, grad: Tensor, values: Tensor, weight: Tensor, *arguments: Any) -> None:
    """Copy the gradient and the input, then sum the gradient as it is (ATen/native/Convolution.cpp)."""
    *_, transposed, _, groups, wants = arguments
    as_image = grad.unsqueeze(2) if values.dim() == LINES else grad
    values, weight, _ = _take_as_images(scratch, values, weight)
    if not is_native_depthwise(values, weight, transposed, groups):
        _convolve_back(scratch, as_image, values, weight, wants, transposed=transposed)
    elif values.dim() == _VOLUMES:
        scratch.outputs(*(place for place in (0, 1) if wants[place]))
        _copy(scratch, as_image, torch.contiguous_format)
    else:
        _convolve_channels_back(scratch, as_image, values, wants)
    if wants[2]:
        scratch.outputs(2)
        reduce(scratch, grad, [0, *range(2, grad.dim())], max(4, grad.element_size()))


def _convolve_channels_back(scratch: Scratch, grad: Tensor, values: Tensor, wants: list[bool]) -> None:
    """Make the gradient of the weight and then that of the input (cuda/DepthwiseConv2d.cu)."""
    copies = _copy(scratch, grad, torch.contiguous_format)
    if wants[1]:
        read = _copy(scratch, values, torch.contiguous_format)
        scratch.outputs(1)
        _give(scratch, read)
    if wants[0]:
        scratch.outputs(0)
    _give(scratch, copies)


def _convolve_back(
    scratch: Scratch, grad: Tensor, values: Tensor, weight: Tensor, wants: list[bool], *, transposed: bool
) -> None:
    """Make both gradients as cuDNN does: all is stored as the input is (cudnn/ConvShared.cpp).

    A gradient that is stored otherwise is copied once. One whose channels are where they have to be and that is not
    dense is copied for each of both, but for transposed convolutions.
    """
    layout = choose_convolution_format(values, weight) if wants[1] else find_memory_format(values)
    copies = _copy(scratch, values, layout) if wants[1] else []
    is_brought = transposed or find_memory_format(grad) is not layout
    if is_brought:
        copies += _copy(scratch, grad, layout)
    if wants[0]:
        scratch.outputs(0)
        read = _copy(scratch, weight, layout) + ([] if is_brought else _copy(scratch, grad, layout))
        _give(scratch, read[::-1])
    if wants[1]:
        read = [] if is_brought else _copy(scratch, grad, layout)
        scratch.outputs(1)
        _give(scratch, read)
    _give(scratch, copies[::-1])


def _take_as_images(scratch: Scratch, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Return lines as images of one row, contiguous for as long as the op runs, and the blocks of that."""
    copies = _copy(scratch, values, torch.contiguous_format) if values.dim() == LINES else []
    return *view_as_images(values, weight), copies


def _copy(scratch: Scratch, tensor: Tensor, layout: torch.memory_format) -> list[int]:
    """Take a copy of a tensor that is not stored as it has to be; return its block, none where it is."""
    is_image = tensor.dim() > 3
    if tensor.is_contiguous(memory_format=layout if is_image else torch.contiguous_format):
        return []
    return [scratch.take(tensor.numel() * tensor.element_size())]


def _give(scratch: Scratch, blocks: list[int]) -> None:
    """Free blocks."""
    for block in blocks:
        scratch.give(block)
