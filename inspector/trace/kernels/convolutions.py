"""Backward pass of convolutions: copies of what is not contiguous, and the sum that the bias's gradient is.

Not covered: what cuDNN's plans take as workspace, which is chosen at run time, and convolutions that do not go through
cuDNN (depthwise ones).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, ops

from inspector.trace.kernels.reductions import reduce
from inspector.trace.kernels.registry import Scratch, kernel

__all__: list[str] = []

aten = ops.aten


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
