"""Layer, group and batch norm: copies, partial sums of the weights' gradients over very many rows, sums of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from inspector.trace.kernels.reductions import reduce
from inspector.trace.kernels.registry import Scratch, kernel
from inspector.trace.memory_format import find_memory_format, norms_rows

__all__: list[str] = []

aten = torch.ops.aten

_FLOAT32_BYTES = 4
# Beyond this many rows, and where a row is too short to fill the GPU, blocks of rows are added up first.
_MOST_ROWS_IN_ONE_STEP = 65_536
# How batch norm cuts rows into blocks: rows of a thread, threads of a block, its most columns, its blocks.
_ROWS_OF_THREAD, _THREADS, _TILE, _FEWEST_BLOCKS, _MOST_BLOCKS = 16, 512, 32, 8, 128


def _partial_sums(scratch: Scratch, rows: int, columns: int, weights: Sequence[Tensor]) -> None:
    """Take the partial gradients of the weights and what adding them up takes (cuda/layer_norm_kernel.cu)."""
    if rows <= _MOST_ROWS_IN_ONE_STEP or columns // 32 >= scratch.platform.multiprocessors // 2:
        return
    blocks = min(32_768 // -(-columns // 32), -(-rows // 32))
    parts = [torch.empty(blocks, columns, dtype=weight.dtype, device="meta") for weight in weights]
    for part in parts:
        scratch.take(part.numel() * part.element_size())
    for part in parts:
        total = scratch.take(columns * part.element_size())
        reduce(scratch, part, [0], 4)
        scratch.give(total)


@kernel(aten.native_layer_norm.default, allocates_outputs=True)
def _layer_norm(scratch: Scratch, values: Tensor, *_: Any) -> None:
    """Copy an input that is not contiguous (layer_norm_kernel.cu, layer_norm_cuda)."""
    _copy(scratch, values)
    scratch.outputs()


def _copy(scratch: Scratch, tensor: Tensor) -> None:
    """Take a contiguous copy where a tensor is not contiguous."""
    if not tensor.is_contiguous():
        scratch.take(tensor.numel() * tensor.element_size())


@kernel(aten.native_layer_norm_backward.default, allocates_outputs=True)
def _layer_norm_backward(
    scratch: Scratch, grad: Tensor, values: Tensor, shape: Sequence[int], _mean: Any, _scale: Any, *affine: Any
) -> None:
    """Copy what is not contiguous; gradients of weight and bias, where they train, are summed over rows.

    The input is copied before the outputs are made, the gradient by the kernel (cuda/layer_norm_kernel.cu).
    """
    _copy(scratch, values)
    scratch.outputs()
    _copy(scratch, grad)
    weights = [item for item in affine[:2] if isinstance(item, Tensor)]
    columns = math.prod(shape)
    _partial_sums(scratch, values.numel() // columns, columns, weights)


def _rms_norm(scratch: Scratch, values: Tensor, *_: Any) -> None:
    """As layer norm."""
    _copy(scratch, values)
    scratch.outputs()


def _rms_norm_backward(
    scratch: Scratch,
    grad: Tensor,
    values: Tensor,
    shape: Sequence[int],
    _scale: Any,
    weight: Tensor | None,
    wanted: Sequence[bool],
) -> None:
    """As layer norm, of a weight without a bias (cuda/layer_norm_kernel.cu, _fused_rms_norm_backward_cuda)."""
    _copy(scratch, values)
    scratch.outputs()
    _copy(scratch, grad)
    columns = math.prod(shape)
    _partial_sums(scratch, values.numel() // columns, columns, [weight] if weight is not None and wanted[1] else [])


if hasattr(aten, "_fused_rms_norm_backward"):  # torch 2.9 and newer
    kernel(aten._fused_rms_norm.default, allocates_outputs=True)(_rms_norm)
    kernel(aten._fused_rms_norm_backward.default, allocates_outputs=True)(_rms_norm_backward)


@kernel(aten.native_group_norm_backward.default)
def _group_norm_backward(
    scratch: Scratch,
    _grad: Tensor,
    _values: Tensor,
    _mean: Tensor,
    _scale: Tensor,
    weight: Tensor | None,
    batch: int,
    channels: int,
    _positions: int,
    groups: int,
    *_: Any,
) -> None:
    """Take sums of each channel and coefficients of each group in float32 (cuda/group_norm_kernel.cu)."""
    for count in (channels, channels):
        scratch.take(4 * batch * count)
    coefficients = [scratch.take(4 * batch * count) for count in (groups, groups)]
    if weight is not None:
        scratch.take(4 * batch * channels)
    for block in coefficients:
        scratch.give(block)


@kernel(aten.native_group_norm.default)
def _group_norm(
    scratch: Scratch,
    values: Tensor,
    weight: Tensor | None,
    _bias: Any,
    batch: int,
    channels: int,
    _positions: int,
    groups: int,
    *_: Any,
) -> None:
    """Take a factor and a summand for each channel in float32 where there are weights.

    Of half precision mean and scale of each group are made in float32 first (seen on torch 2.13's CUDA code; of earlier
    releases that was not recorded).
    """
    if values.element_size() < _FLOAT32_BYTES and scratch.platform.torch_version >= (2, 13):
        for _moment in range(2):
            scratch.take(_FLOAT32_BYTES * batch * groups)
    if weight is not None:
        scratch.take(4 * batch * channels)
        scratch.take(4 * batch * channels)


@kernel(aten.native_batch_norm.default)
def _batch_norm(
    scratch: Scratch, values: Tensor, _weight: Any, _bias: Any, _mean: Any, _variance: Any, training: bool, *_: Any
) -> None:
    """Torch's own kernel has means and sums of squares of each block of many rows (cuda/Normalization.cuh)."""
    if training and norms_rows(values):
        _add_up_blocks(scratch, values, 4)


@kernel(aten.native_batch_norm_backward.default, allocates_outputs=True)
def _batch_norm_backward(scratch: Scratch, grad: Tensor, values: Tensor, *_: Any) -> None:
    """Copy a gradient that is not stored as the input is (cudnn/BatchNorm.cpp); torch's own kernel adds rows up."""
    if not norms_rows(values):
        if not grad.is_contiguous(memory_format=find_memory_format(values)):
            scratch.take(grad.numel() * grad.element_size())
        scratch.outputs()
        return
    sums = [scratch.take(4 * values.shape[1]) for _ in range(2)]
    scratch.outputs(1, 2)
    _add_up_blocks(scratch, values, 2)
    scratch.outputs(0)
    for block in sums:
        scratch.give(block)


def _add_up_blocks(scratch: Scratch, values: Tensor, sums: int) -> None:
    """Take so many float32 sums of a channel for each block of rows, and a counter for each block of channels.

    Source: cuda/Normalization.cuh, `flexible_launch_configs`.
    """
    channels = values.shape[1]
    rows = values.numel() // channels
    height = min(_find_power(-(-rows // _ROWS_OF_THREAD)), _THREADS // min(_find_power(channels), _TILE))
    width = min(_find_power(channels), _THREADS // height)
    blocks = min(-(-rows // (height * _ROWS_OF_THREAD)), _MOST_BLOCKS)
    if blocks >= _FEWEST_BLOCKS:
        parts = scratch.take(4 * sums * channels * blocks)
        scratch.give(scratch.take(4 * -(-channels // width)))
        scratch.give(parts)


def _find_power(number: int) -> int:
    """Return the largest power of two that is not above a number."""
    return 1 << (number.bit_length() - 1)
