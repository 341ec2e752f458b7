"""Kernels of softmax and dropout, and of what is a few pointwise ops at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inspector.trace.kernels.registry import Scratch, kernel

__all__: list[str] = []

aten = torch.ops.aten


@kernel(aten.log_sigmoid_forward.default, allocates_outputs=True)
def _log_sigmoid(scratch: Scratch, _values: Tensor) -> None:
    """Leave empty the buffer that the CPU fills for the backward pass (native/Activation.cpp)."""
    scratch.outputs(0)


@kernel(aten._softmax.default, aten._log_softmax.default)
def _softmax(scratch: Scratch, values: Tensor, *_: Any) -> None:
    """Copy an input that is not contiguous (cuda/SoftMax.cu, host_softmax)."""
    if not values.is_contiguous():
        scratch.take(values.numel() * values.element_size())


@kernel(aten._softmax_backward_data.default)
def _softmax_backward(scratch: Scratch, grad: Tensor, output: Tensor, *_: Any) -> None:
    """Softmax backward makes grad * output in the wider of both dtypes (aten/src/ATen/native/cuda/SoftMax.cu)."""
    scratch.take(grad.numel() * max(grad.element_size(), output.element_size()))


@kernel(aten.native_dropout.default, allocates_outputs=True)
def _dropout(scratch: Scratch, *_: Any) -> None:
    """Make the mask before the output (aten/src/ATen/native/cuda/Dropout.cu)."""
    scratch.outputs(1, 0)


@kernel(aten._safe_softmax.default)
def _safe_softmax(scratch: Scratch, values: Tensor, dim: int, dtype: torch.dtype | None = None) -> None:
    """Rows that are masked whole become 0: a truth value for each element, for each row, and a zero (SoftMax.cpp)."""
    scratch.take(values.numel())
    scratch.take(values.numel() // values.shape[dim])
    scratch.take((dtype or values.dtype).itemsize)


@kernel(aten.isinf.default, allocates_outputs=True)
def _isinf(scratch: Scratch, values: Tensor) -> None:
    """Compare the magnitudes of floats with infinity (aten/src/ATen/native/TensorCompare.cpp)."""
    if values.is_floating_point():
        scratch.take(values.numel() * values.element_size())
    scratch.outputs()


@kernel(aten.pow.Scalar)
def _pow(scratch: Scratch, base: Any, *_: Any) -> None:
    """Bring the number whose powers are taken to the device (native/Pow.cpp, ScalarOps.h scalar_to_tensor)."""
    if base != 1:
        scratch.take(16 if isinstance(base, complex) else 8)
