"""Convolutions: copies of what is not contiguous, and the sum that the bias's gradient is.

Not covered: what cuDNN's plans take as workspace, which is chosen at run time, and the backward pass of convolutions
that do not go through cuDNN (depthwise ones).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, ops

from inspector.trace.kernels.reductions import reduce
from inspector.trace.kernels.registry import Scratch, kernel

__all__: list[str] = []

aten = ops.aten


@kernel(aten.convolution.default, allocates_outputs=True)
def _convolution(scratch: Scratch, values: Tensor, weight: Tensor, *_: Any, **__: Any) -> None:
    """Copy the input of a depthwise convolution where it is not contiguous (ATen/native/Convolution.cpp)."""
    is_depthwise = weight.shape[1] == 1 and weight.shape[0] > 1
    copy = scratch.take(values.numel() * values.element_size()) if is_depthwise and not values.is_contiguous() else None
    scratch.outputs()
    if copy is not None:
        scratch.give(copy)


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
