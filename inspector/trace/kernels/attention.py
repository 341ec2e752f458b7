"""Fused attention kernels: accumulators, row sums and workspaces, by kernel, head size and GPU.

Sizes are [batch, heads, rows, head size]; rows of a query are padded to the tile of the kernel. Sources, below
aten/src/ATen/native/transformers/cuda: attention.cu and attention_backward.cu, flash_attn/flash_api.cpp (mha_fwd,
mha_bwd, num_splits_heuristic), mem_eff_attention/kernel_backward.h and the list of tiles generated beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inspector.hardware.flash_splits import count_flash_splits
from inspector.hardware.platform import Platform
from inspector.trace.kernels.registry import Scratch, kernel

__all__: list[str] = []

aten = torch.ops.aten

_FLOAT_BYTES = 4
_RANDOM_STATE_BYTES = 16
_HALF = (torch.float16, torch.bfloat16)


def _round_up(number: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-number // multiple) * multiple


# --- flash attention --------------------------------------------------------------------------------------------------


@kernel(aten._scaled_dot_product_flash_attention.default, allocates_outputs=True)
def _flash_attention(
    scratch: Scratch, query: Tensor, key: Tensor, _value: Tensor, dropout_p: float = 0.0, *_: Any, **__: Any
) -> None:
    """Split along the keys where rows and heads are few, with accumulators; dropout has a random state of its own.

    One row of grouped heads runs as the rows of its groups on the heads of the keys (`mha_fwd`,
    seqlenq_ngroups_swapped).
    """
    batch, heads, rows, size = query.shape
    scratch.outputs(0, 1)
    own_heads = key.shape[1]
    if rows == 1 and heads > own_heads and not dropout_p and size % 8 == 0:
        heads, rows = own_heads, heads // own_heads
    splits = 1 if dropout_p else count_flash_splits(scratch.platform, batch * heads, rows, key.shape[2], size)
    blocks = []
    if splits > 1:
        blocks.append(scratch.take(_FLOAT_BYTES * splits * batch * heads * rows))
        blocks.append(scratch.take(_FLOAT_BYTES * splits * batch * heads * rows * _pad_size(size)))
    scratch.outputs(6, 7)
    for block in blocks:
        scratch.give(block)
    if dropout_p:
        scratch.take(_RANDOM_STATE_BYTES)


def _pad_size(size: int) -> int:
    """Return the head size that flash attention computes with."""
    return _round_up(size, 32) if size < 224 else 256


@kernel(aten._scaled_dot_product_flash_attention_backward.default, allocates_outputs=True)
def _flash_attention_backward(
    scratch: Scratch, grad: Tensor, query: Tensor, key: Tensor, _value: Tensor, out: Tensor, *_: Any, **__: Any
) -> None:
    """Row sums, and dq in float32; grouped queries get dk and dv for each query head first.

    The gradient and the output are copied where their rows of heads do not lie one after the other, as when the query
    did not (transformers/cuda/attention_backward.cu, `_flash_attention_backward`).
    """
    for tensor in (grad, out):
        if not tensor.transpose(1, 2).is_contiguous():
            scratch.take(tensor.numel() * tensor.element_size())
    scratch.outputs(0, 1, 2)
    batch, heads, queries, size = query.shape
    rows = _round_up(queries, 128)
    scratch.take(_FLOAT_BYTES * batch * heads * rows)
    scratch.take(_FLOAT_BYTES * batch * rows * heads * _pad_size(size))
    if key.shape[1] != heads:
        expanded = batch * key.shape[2] * heads * size * key.element_size()
        scratch.take(expanded)
        scratch.take(expanded)


# --- efficient attention (CUTLASS) ------------------------------------------------------------------------------------


@kernel(aten._scaled_dot_product_efficient_attention.default, allocates_outputs=True)
def _efficient_attention(scratch: Scratch, query: Tensor, _key: Tensor, value: Tensor, *_: Any, **__: Any) -> None:
    """Keep the random state on the CPU; half types beyond a head size of 128 accumulate outside the registers.

    The larger of the two head sizes chooses the kernel, and with it where it accumulates (mem_eff_attention,
    kernel_forward.h, kMaxK).
    """
    scratch.outputs(0, 1)
    batch, heads, rows = query.shape[:3]
    if query.dtype in _HALF and max(query.shape[-1], value.shape[-1]) > 128:
        scratch.take(_FLOAT_BYTES * batch * heads * rows * value.shape[-1])


@kernel(aten._scaled_dot_product_efficient_attention_backward.default, allocates_outputs=True)
def _efficient_attention_backward(
    scratch: Scratch,
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _bias: Any,
    _out: Tensor,
    _sums: Tensor,
    _seed: Any,
    _offset: Any,
    dropout_p: float,
    *_: Any,
    **__: Any,
) -> None:
    """Delta is grad * out summed over a head, outside the kernel for float32; then the workspace of the tiles.

    A gradient whose rows of heads do not lie one after the other is copied first.
    """
    if not grad.transpose(1, 2).is_contiguous():
        scratch.take(grad.numel() * grad.element_size())
    scratch.outputs()
    batch, heads, rows = query.shape[:3]
    delta = _FLOAT_BYTES * batch * heads * rows
    if query.dtype in _HALF:
        row_sums = scratch.take(delta)
    else:
        product = scratch.take(_FLOAT_BYTES * batch * heads * rows * value.shape[-1])
        row_sums = scratch.take(delta)
        if min(heads, rows) > 1:  # sums a position are brought to sums a head
            by_position, row_sums = row_sums, scratch.take(delta)
            scratch.give(by_position)
        scratch.give(product)
    scratch.take(_backward_workspace(scratch.platform, query, key, value, dropout=dropout_p > 0))
    scratch.give(row_sums)


def _backward_workspace(platform: Platform, query: Tensor, key: Tensor, value: Tensor, *, dropout: bool) -> int:
    """Return the bytes that tiles of the backward kernel share: dq, and dk and dv unless registers hold them."""
    batch, heads, rows, size = query.shape
    keys, value_size = key.shape[2], value.shape[-1]
    queries_tile, keys_tile, in_registers = _tile(platform, query.dtype, max(size, value_size), dropout=dropout)
    elements = -(-rows // queries_tile) * -(-size // keys_tile) * (4 + queries_tile * keys_tile)
    if not in_registers:
        splits = -(-keys // keys_tile)
        if batch * heads >= 256 and keys <= 2 * keys_tile:
            splits = 1
        splits = min(splits, max(200 // (batch * heads), 1))
        elements += splits * keys_tile * (_round_up(size, queries_tile) + _round_up(value_size, queries_tile))
    return _FLOAT_BYTES * batch * heads * _round_up(elements, 4)


def _tile(platform: Platform, dtype: torch.dtype, size: int, *, dropout: bool) -> tuple[int, int, bool]:
    """Return queries and keys of a tile, and whether dk and dv stay in registers (kernels/generate_kernels.py).

    The first kernel of the list whose shared memory the GPU has: 64 KiB on 7.5, 99 KiB on 8.6, 8.9 and 12, 163 and more
    on 8.0, 9.0 and 10. float32 accumulates in the output itself.
    """
    capability = platform.compute_capability
    is_large = capability in ((8, 0), (9, 0)) or capability[0] in (10, 11)
    if dtype not in _HALF:
        return (128 if is_large and size > 64 else 64), 64, True
    if size <= 64:
        return 64, 64, True
    if size > 128:
        return 128, 64, False
    if is_large:
        return 128, 128, True
    if capability < (8, 0):
        return 128, 64, True
    return (128, 64, True) if size <= 96 and not dropout and capability[0] == 8 else (64, 64, False)


# --- cuDNN ------------------------------------------------------------------------------------------------------------


@kernel(aten._scaled_dot_product_cudnn_attention.default, allocates_outputs=True)
def _cudnn_attention(scratch: Scratch, *_: Any, **__: Any) -> None:
    """Make the random state first, on the GPU (cudnn/MHA.cpp)."""
    scratch.outputs(6, 7, 0, 1)


@kernel(aten._scaled_dot_product_cudnn_attention_backward.default)
def _cudnn_attention_backward(scratch: Scratch, _grad: Tensor, query: Tensor, *_: Any, **__: Any) -> None:
    """Take the frontend's workspace, dq in float32 and row sums; what the engine itself wants is not known."""
    batch, heads, rows, size = query.shape
    scratch.take(_FLOAT_BYTES * batch * heads * rows * (size + 1))
