"""Convolutions: copies of what is not contiguous, and the sum that the bias's gradient is.

Not covered: what cuDNN's plans take as workspace, which is chosen at run time, and the backward pass of convolutions
that do not go through cuDNN (depthwise ones).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, ops

from inspector.trace.kernels.reductions import reduce
from inspector.trace.kernels.registry import Scratch, kernel

__all__: list[str] = []

aten = ops.aten


@kernel(aten.convolution.default, allocates_outputs=True)
def _convolution(scratch: Scratch, values: Tensor, weight: Tensor, *_: Any, **__: Any) -> None:
    """Copy an input that is not contiguous; cuDNN takes one whose channels are innermost as it is, not its weight.

    Source: ATen/native/Convolution.cpp, `_convolution`, and cudnn/ConvShared.cpp.
    """
    is_depthwise = weight.shape[1] == 1 and weight.shape[0] > 1
    is_last = not is_depthwise and _is_channels_last(values)
    is_copied = not values.is_contiguous() and not is_last
    copy = scratch.take(values.numel() * values.element_size()) if is_copied else None
    scratch.outputs()
    if is_last and not _is_channels_last(weight):
        scratch.give(scratch.take(weight.numel() * weight.element_size()))
    if copy is not None:
        scratch.give(copy)


def _is_channels_last(tensor: Tensor) -> bool:
    """Tell whether an image is stored with its channels innermost and not otherwise."""
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


@kernel(aten.convolution_backward.default, allocates_outputs=True)
def _convolution_backward(scratch: Scratch, grad: Tensor, values: Tensor, *arguments: Any) -> None:
    """Copy the gradient and the input for cuDNN, then sum the gradient as it is (ATen/native/Convolution.cpp)."""
    *_, (_, _, trains_bias) = arguments
    copies = [
        scratch.take(tensor.numel() * tensor.element_size()) for tensor in (grad, values) if not tensor.is_contiguous()
    ]
    scratch.outputs(0, 1)
    for block in copies:
        scratch.give(block)
    if trains_bias:
        scratch.outputs(2)
        reduce(scratch, grad, [0, *range(2, grad.dim())], max(4, grad.element_size()))
