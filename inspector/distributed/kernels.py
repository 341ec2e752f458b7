"""What FSDP's two packing kernels take beside tensors.

Both pack what they have to know of their tensors into one tensor of int64 on the device, which is taken after the
outputs and given back at the end of the call. Source: ATen/native/cuda/TensorShape.cu of torch 2.13 (`pack_vecs`,
`split_with_sizes_copy_out_cuda`, `_chunk_cat_out_cuda`): 128 threads of 16 bytes each are a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed.fsdp  # its ops
from torch import Tensor

from inspector.hardware.platform import Platform

__all__ = ["PACKING_KERNELS"]

_THREADS = 128
_BLOCK_BYTES = _THREADS * 16
_WORD = 8


def _count_split_bytes(
    platform: Platform, source: Tensor, sizes: Sequence[int], dim: int = 0, *, out: Sequence[Tensor]
) -> int:
    """Return what `fsdp::split_with_sizes_copy` takes, 0 where it is a loop of copies."""
    if not source.is_contiguous() or not all(item.is_contiguous() and item.dtype == source.dtype for item in out):
        return 0
    item = source.element_size()
    chunks = source.numel() // source.shape[dim]
    chunk_bytes = [size * item for size in sizes]
    blocks = sum(_divide_up(each, _BLOCK_BYTES) for each in chunk_bytes)
    most = platform.multiprocessors * platform.threads_per_multiprocessor // _THREADS * 2
    factor = _divide_up(blocks * chunks, most)
    chunks_in_block = min(math.ceil(math.sqrt(factor)), chunks)
    rounds = _divide_up(factor, chunks_in_block)
    used = sum(_divide_up(each, _BLOCK_BYTES * rounds) for each in chunk_bytes)
    return _WORD * (3 * len(sizes) + used + len(sizes) + 1)


def _count_cat_bytes(_platform: Platform, tensors: Sequence[Tensor], dim: int, num_chunks: int, *, out: Tensor) -> int:
    """Return what `fsdp::chunk_cat` takes, 0 where it is composed of other ops."""
    dtype = tensors[0].dtype
    is_fast = dtype == out.dtype or (dtype is torch.bfloat16 and out.dtype is torch.float32)
    if not is_fast or not out.is_contiguous() or not all(item.is_contiguous() for item in tensors):
        return 0
    blocks = 0
    for tensor in tensors:
        trailing = math.prod(tensor.shape[dim + 1 :])
        chunk = _divide_up(tensor.shape[dim], num_chunks) * trailing * out.element_size()
        blocks += _divide_up(chunk, _BLOCK_BYTES)
    return _WORD * (blocks + 6 * len(tensors) + 2)


def _divide_up(number: int, by: int) -> int:
    """Divide, rounding up."""
    return -(-number // by)


PACKING_KERNELS: dict[Any, Any] = {
    torch.ops.fsdp.split_with_sizes_copy.default: _count_split_bytes,
    torch.ops.fsdp.chunk_cat.default: _count_cat_bytes,
}
