"""Ops whose meta kernel in torch refuses what the real kernels take, or cannot know what values say.

A registry, op -> the result on meta as a pure function of shapes, each with its source. Duplicates raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inspector.trace.memory_format import LINES, choose_convolution_format, find_memory_format, view_as_images

__all__ = ["META_KERNELS"]

aten = torch.ops.aten

# How a loss is reduced (ATen/core/Reduction.h).
_NONE, _MEAN = 0, 1

_Kernel = Callable[..., Any]
META_KERNELS: dict[Any, _Kernel] = {}


def _kernel(op: Any) -> Callable[[_Kernel], _Kernel]:
    """Register the result of an op."""

    def register(kernel: _Kernel) -> _Kernel:
        if op in META_KERNELS:
            raise ValueError(f"two meta kernels for {op}")
        META_KERNELS[op] = kernel
        return kernel

    return register


# Early releases do not have the op; transformers then uses one of its own.
if hasattr(aten, "_grouped_mm"):

    @_kernel(aten._grouped_mm.default)
    def _grouped_mm(first: Tensor, second: Tensor, offs: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        """Multiply the rows of each group by the group's matrix: rows of the result are padded to 16 bytes.

        Torch's own meta kernel takes bfloat16 alone; CUDA and the CPU take float16 and float32 too
        (ATen/native/GroupedMMUtils.h, create_grouped_gemm_output_tensor).
        """
        groups = () if offs is None else (offs.shape[0],)
        if first.dim() == second.dim():
            size = (*(groups or first.shape[:1]), first.shape[-2], second.shape[-1])
        else:
            size = (first.shape[-2], second.shape[-1])
        alignment = 16 // first.element_size()
        row = -(-size[-1] // alignment) * alignment
        strides = (row, 1) if len(size) == 2 else (size[1] * row, row, 1)
        return torch.empty_strided(size, strides, dtype=first.dtype, device=first.device)


@_kernel(aten.convolution.default)
def _convolution(values: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
    """Return an image that is stored as the kernel takes what it is made of; torch's meta kernel cannot know that."""
    return _store(aten.convolution.default(values, weight, *arguments), values, weight)


@_kernel(aten.convolution_backward.default)
def _convolution_backward(
    _grad: Tensor, values: Tensor, weight: Tensor, bias_sizes: list[int] | None, *arguments: Any
) -> tuple[Tensor | None, ...]:
    """Return gradients in the memory format of input and weight, whatever that of the gradient that comes in is.

    Torch's own meta kernel follows the latter (_meta_registrations.py); CUDA does not (cudnn/ConvShared.cpp).
    """
    *_, (wants_input, wants_weight, wants_bias) = arguments
    return (
        _store(values, values, weight) if wants_input else None,
        _store(weight, values, weight) if wants_weight else None,
        weight.new_empty(bias_sizes or weight.shape[:1]) if wants_bias else None,
    )


def _store(made: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """Return what a convolution makes, stored as its input and weight say."""
    layout = choose_convolution_format(*view_as_images(values, weight))
    if values.dim() == LINES:
        return torch.empty_like(made.unsqueeze(2), memory_format=layout).squeeze(2)
    return torch.empty_like(made, memory_format=layout)


@_kernel(aten.native_layer_norm_backward.default)
def _layer_norm_backward(
    _grad: Tensor,
    values: Tensor,
    _shape: list[int],
    _mean: Tensor,
    _scale: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    wants: list[bool],
) -> tuple[Tensor | None, ...]:
    """Return contiguous gradients; torch's own meta kernel has the layout of a gradient that comes in transposed.

    Both devices copy that first and make their results anew (cuda/layer_norm_kernel.cu, cpu/layer_norm_kernel.cpp).
    """
    return tuple(
        torch.empty_like(item, memory_format=torch.contiguous_format) if item is not None and wanted else None
        for item, wanted in zip((values, weight, bias), wants, strict=True)
    )


@_kernel(aten._ctc_loss.default)
def _ctc_loss(
    log_probs: Tensor, _targets: Tensor, _input_lengths: list[int], target_lengths: list[int], *_: Any, **__: Any
) -> tuple[Tensor, Tensor]:
    """Return a loss a sequence and the alphas: time by twice the longest target (native/LossCTC.cpp, cuda/LossCTC.cu).

    torch has no meta kernel for it.
    """
    time, batch, _labels = log_probs.shape
    alphas = log_probs.new_empty((batch, time, 2 * max(target_lengths, default=0) + 1))
    return log_probs.new_empty((batch,)), alphas


@_kernel(aten._ctc_loss_backward.default)
def _ctc_loss_backward(_grad: Tensor, log_probs: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return the gradient of the log-probabilities, which is contiguous."""
    return torch.empty_like(log_probs, memory_format=torch.contiguous_format)


@_kernel(aten.mse_loss.default)
def _mse_loss(values: Tensor, targets: Tensor, reduction: int = _MEAN) -> Tensor:
    """Return a loss whose memory is that of all differences, also where it is one number.

    It is made as large as they are and then resized (ATen/native/Loss.cpp, `TORCH_META_FUNC(mse_loss)`).
    """
    losses = torch.empty_like(values + targets)
    return losses if reduction == _NONE else losses.as_strided((), ())


@_kernel(aten.smooth_l1_loss.default)
def _smooth_l1_loss(values: Tensor, targets: Tensor, reduction: int = _MEAN, _beta: float = 1.0) -> Tensor:
    """Return the same of the smooth absolute difference."""
    return _mse_loss(values, targets, reduction)


@_kernel(aten.masked_fill.Tensor)
def _masked_fill(values: Tensor, mask: Tensor, _number: Tensor) -> Tensor:
    """Fill with a number, which may lie on the CPU: torch's own meta kernel takes that of CUDA alone for it."""
    filled: Tensor = aten.masked_fill.Scalar(values, mask, 0)
    return filled


@_kernel(aten.masked_fill_.Tensor)
def _masked_fill_in_place(values: Tensor, mask: Tensor, _number: Tensor) -> Tensor:
    """Fill in place with such a number."""
    filled: Tensor = aten.masked_fill_.Scalar(values, mask, 0)
    return filled


@_kernel(aten.native_batch_norm.default)
def _batch_norm(
    values: Tensor, weight: Tensor | None, bias: Any, mean: Any, variance: Any, training: bool, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is normed, mean and scale: where it does not train CUDA keeps nothing (cuda/Normalization.cu).

    Not covered: rows, and images whose channels are innermost, that do not train; it keeps and adds up more there.
    """
    result, *kept = aten.native_batch_norm.default(values, weight, bias, mean, variance, training, *others)
    layout = find_memory_format(values)
    return torch.empty_like(result, memory_format=layout), *(item if training else item.new_empty(0) for item in kept)


@_kernel(aten.native_batch_norm_backward.default)
def _batch_norm_backward(grad: Tensor, values: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    """Return gradients, that of the input stored as the input is (cudnn/BatchNorm.cpp)."""
    made, *others = aten.native_batch_norm_backward.default(grad, values, *arguments)
    return None if made is None else torch.empty_like(made, memory_format=find_memory_format(values)), *others
