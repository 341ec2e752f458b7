"""Reductions over few outputs split their input over thread blocks, which then meet in global memory.

Such a kernel takes a buffer of partial results and a semaphore for each output block for as long as it runs. Whether it
splits, and how often, follows from the geometry of the reduction as `setReduceConfig` computes it
(aten/src/ATen/native/cuda/Reduce.cuh, the same in torch 2.10 to 2.13), after TensorIterator has sorted and merged the
dimensions (aten/src/ATen/TensorIterator.cpp). Sums over many rows, as the gradients of biases and of norm weights are,
take tens of MiB that way: the buffer has a place for every thread of a block.

Not covered: inputs of 2^31 elements and more, which the kernel splits first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inspector.hardware.platform import Platform
from inspector.trace.kernels.registry import Scratch, kernel

__all__ = ["global_reduce_bytes", "reduce"]

aten = torch.ops.aten

_MOST_THREADS = 512
_WARP = 32
# A thread takes at least and at most this many values where a reduction may be split (Reduce.cuh).
_FEWEST_VALUES, _MOST_VALUES = 16, 256


@dataclass(slots=True)
class _Dimension:
    """A dimension of the iteration: how many steps, and the input's stride in elements; reduced or kept."""

    size: int
    stride: int
    reduced: bool


def reduce(scratch: Scratch, values: Tensor, dims: Sequence[int], accumulator_bytes: int, vector: int = 4) -> None:
    """Take what the reduction of `values` over `dims` (all of them if empty) needs while it runs."""
    buffer, semaphores = global_reduce_bytes(scratch.platform, values, dims, accumulator_bytes, vector)
    blocks = [scratch.take(size) for size in (buffer, semaphores) if size]
    for block in reversed(blocks):
        scratch.give(block)


def global_reduce_bytes(
    platform: Platform, values: Tensor, dims: Sequence[int], accumulator_bytes: int, vector: int = 4
) -> tuple[int, int]:
    """Return the bytes of partial results and of semaphores, (0, 0) where blocks do not share an output.

    `accumulator_bytes` is the size of a partial result, `vector` how many values a load takes along the input.
    """
    if values.numel() == 0:
        return 0, 0
    reduced, kept = _iteration(values, dims)
    inputs, outputs = math.prod(d.size for d in reduced), math.prod(d.size for d in kept)
    along_input = not kept or (bool(reduced) and reduced[0].stride < kept[0].stride)
    width, height, output_vector = _block(reduced, kept, along_input, int(values.storage_offset()), vector)
    per_step, outputs_per_block = (width, 1) if along_input else (1, width)
    across_warps = -(-inputs // per_step) >= min(height * _FEWEST_VALUES, _MOST_VALUES)
    if across_warps:
        per_step *= height
    else:
        outputs_per_block *= height
    grid = -(-(outputs // output_vector) // outputs_per_block)
    target = platform.multiprocessors * (platform.threads_per_multiprocessor // (width * height))
    per_thread = -(-inputs // per_step)
    if not across_warps or per_thread < _MOST_VALUES or grid > target:
        return 0, 0
    splits = max(min(-(-target // grid), -(-per_thread // _FEWEST_VALUES)), -(-per_thread // _MOST_VALUES))
    if splits <= 1:
        return 0, 0
    size = accumulator_bytes * outputs * splits
    return size if along_input else size * width * output_vector, 4 * grid


def _iteration(values: Tensor, dims: Sequence[int]) -> tuple[list[_Dimension], list[_Dimension]]:
    """Return the reduced and the kept dimensions, each from the fastest on, with those merged that are one run."""
    over = {dim % values.dim() for dim in dims} if dims else set(range(values.dim()))
    found = [
        _Dimension(size, stride, index in over)
        for index, (size, stride) in enumerate(zip(values.shape, values.stride(), strict=True))
        if size != 1
    ]
    # Reduced dimensions come first, by the input's strides; kept ones follow those of the output, which is contiguous.
    over_input = sorted((item for item in reversed(found) if item.reduced), key=lambda item: item.stride)
    ordered = [*over_input, *(item for item in reversed(found) if not item.reduced)]
    merged: list[_Dimension] = []
    for dimension in ordered:
        last = merged[-1] if merged else None
        if last and last.reduced is dimension.reduced and last.stride * last.size == dimension.stride:
            last.size *= dimension.size
        else:
            merged.append(_Dimension(dimension.size, dimension.stride, dimension.reduced))
    return [d for d in merged if d.reduced], [d for d in merged if not d.reduced]


def _block(
    reduced: list[_Dimension], kept: list[_Dimension], along_input: bool, offset: int, vector: int
) -> tuple[int, int, int]:
    """Return width and height of a thread block, and how many outputs a thread takes at once."""
    inputs, outputs = math.prod(d.size for d in reduced), math.prod(d.size for d in kept)
    output_vector = 1
    if along_input:
        first, second = inputs, outputs
        if (not reduced or reduced[0].stride == 1) and first >= 128 and len(reduced) == 1:
            first //= vector
    else:
        first, second = outputs, inputs
        if kept[0].stride == 1:
            others = [d.stride for d in (*reduced, *kept[1:])]
            output_vector = math.gcd(4, offset, kept[0].size, *others)
            first //= output_vector
    most = _MOST_THREADS // output_vector
    first, second = min(_power_of_two(first), most), min(_power_of_two(second), most)
    height = min(second, most // min(first, _WARP))
    return min(first, most // height), height, output_vector


def _power_of_two(number: int) -> int:
    """Return the largest power of two that is no larger than `number`, at least 1."""
    return 1 << max(number.bit_length() - 1, 0)


def _accumulator(dtype: torch.dtype) -> int:
    """Return the size of what a sum of `dtype` is kept in: float32 for half types."""
    return max(dtype.itemsize, 4) if dtype.is_floating_point else dtype.itemsize


@kernel(
    *(aten.sum.dim_IntList, aten.sum.default, aten.nansum.default),
    *(aten.mean.dim, aten.mean.default, aten.prod.dim_int, aten.prod.default),
)
def _sum(
    scratch: Scratch, values: Tensor, dims: Any = (), *_: Any, dtype: torch.dtype | None = None, **__: Any
) -> None:
    """Sum, mean and product accumulate in float32 at least; integers are cast to int64 first (ReduceOps.cpp)."""
    dims = [dims] if isinstance(dims, int) else dims or ()
    wanted = dtype or (values.dtype if values.is_floating_point() else torch.int64)
    # Half into float32 is one kernel (ReduceOpsUtils.h, get_dtype_from_result); other casts come first.
    is_fused = values.dtype in (torch.float16, torch.bfloat16) and wanted is torch.float32
    if wanted is not values.dtype and not is_fused:
        values = values.new_empty(values.shape, dtype=wanted, device="meta").as_strided(values.shape, _dense(values))
        scratch.take(values.numel() * wanted.itemsize)
    reduce(scratch, values, dims, _accumulator(wanted))


def _dense(values: Tensor) -> tuple[int, ...]:
    """Return the strides of a dense copy that keeps the order of dimensions."""
    return torch.empty_like(values, device="meta").stride()


@kernel(aten.amax.default, aten.amin.default)
def _amax(scratch: Scratch, values: Tensor, dims: Any = (), *_: Any) -> None:
    """Keep the largest value in the dtype of the input (ReduceMaxValuesKernel.cu)."""
    reduce(scratch, values, [dims] if isinstance(dims, int) else dims, values.element_size())


@kernel(aten.logsumexp.default, allocates_outputs=True)
def _logsumexp(scratch: Scratch, values: Tensor, dims: Any, *_: Any) -> None:
    """Subtract the largest values before summing up (ATen/native/ReduceOps.cpp, logsumexp_out_impl)."""
    dims = [dims] if isinstance(dims, int) else dims
    largest = torch.empty_like(values, device="meta").amax(dims)
    scratch.take(largest.numel() * values.element_size())
    _amax(scratch, values, dims)
    magnitudes = scratch.take(largest.numel() * values.element_size())
    scratch.give(scratch.take(largest.numel()))  # which of them are infinite
    scratch.give(magnitudes)
    differences = scratch.take(values.numel() * values.element_size())
    scratch.outputs()
    reduce(scratch, torch.empty_like(values, device="meta"), dims, _accumulator(values.dtype))
    scratch.give(differences)


@kernel(aten.max.default, aten.min.default)
def _max(scratch: Scratch, values: Tensor) -> None:
    """As `amax`, over everything."""
    reduce(scratch, values, (), values.element_size())


@kernel(aten.any.default, aten.all.default)
def _any(scratch: Scratch, values: Tensor) -> None:
    """Truth is kept in one byte (ReduceLogicKernel.cu)."""
    reduce(scratch, values, (), 1)


@kernel(aten.any.dim, aten.all.dim)
def _any_dim(scratch: Scratch, values: Tensor, dim: int, *_: Any) -> None:
    """As `any`, over one dimension."""
    reduce(scratch, values, [dim], 1)


@kernel(aten.argmax.default, aten.argmin.default)
def _argmax(scratch: Scratch, values: Tensor, dim: int | None = None, *_: Any) -> None:
    """Keep a value and its place as a pair, 16 bytes with padding (ReduceArgMaxKernel.cu)."""
    reduce(scratch, values, () if dim is None else [dim], 16)


@kernel(aten.linalg_vector_norm.default)
def _vector_norm(scratch: Scratch, values: Tensor, order: Any = 2, dims: Any = None, *_: Any, **__: Any) -> None:
    """Norms accumulate in float32 at least (ReduceNormKernel.cu)."""
    reduce(scratch, values, dims or (), _accumulator(values.dtype))


@kernel(aten._foreach_norm.Scalar, allocates_outputs=True)
def _foreach_norm(scratch: Scratch, tensors: Sequence[Tensor], *_: Any, **__: Any) -> None:
    """Take a partial sum for each chunk of 65,536 elements, as many for each tensor as the longest has chunks.

    The sums are float32, float64 for tensors of that dtype (cuda/ForeachReduceOp.cu, MultiTensorApply.cuh). There is an
    output for each tensor; those of tensors without elements, as shards may be, are zeros that are made behind them.
    """
    chunks = max(-(-tensor.numel() // 65_536) for tensor in tensors)
    width = max(4, tensors[0].element_size())
    scratch.take(len(tensors) * chunks * width)
    full = [place for place, tensor in enumerate(tensors) if tensor.numel()]
    if len(full) == len(tensors):
        scratch.outputs()
        return
    if full:
        scratch.outputs(*full)
    empty = [place for place, tensor in enumerate(tensors) if not tensor.numel()]
    unused = [scratch.take(tensors[0].element_size()) for _ in empty]
    scratch.outputs(*empty)
    for block in unused:
        scratch.give(block)
