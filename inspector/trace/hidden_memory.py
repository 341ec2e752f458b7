"""Memory that kernels take and no tensor shows: op -> bytes, as pure functions of shapes, each with its source.

Temporaries live for the time of the op. What is not here and not known is listed in `NOT_ACCOUNTED`, which goes into
the report. Duplicate rules for one op raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["LT_OPS", "NOT_ACCOUNTED", "WORKSPACE_OPS", "temporaries"]

aten = torch.ops.aten

_Rule = Callable[..., tuple[int, ...]]
_RULES: dict[Any, _Rule] = {}

# The first call of any of these in a thread makes its cuBLAS handle take a workspace (ATen/cuda/CublasHandlePool.cpp).
WORKSPACE_OPS = frozenset({aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default})
# Of these, the ones with a bias epilogue go through cuBLASLt (ATen/native/cuda/Blas.cpp, addmm_out_cuda_impl).
LT_OPS = frozenset({aten.addmm.default})

NOT_ACCOUNTED = (
    ("partial sums of reductions over long columns", "bias and norm-weight gradients take buffers for a moment"),
    ("sorting in the backward pass of embeddings", "only where an embedding trains on more than 3,072 tokens"),
    ("splits of flash attention", "accumulators for a moment, where heads and rows are few"),
    ("grouped matrix products of experts", "arguments and workspaces of their kernels"),
    ("plans of cuDNN convolutions and attention", "their workspaces are chosen by cuDNN at run time"),
)


def temporaries(func: Any, args: tuple[Any, ...]) -> tuple[int, ...]:
    """Return the sizes in bytes of what the CUDA kernel of `func` takes beside its outputs, freed when it returns."""
    rule = _RULES.get(func)
    return rule(*args) if rule is not None else ()


def _rule(*ops: Any) -> Callable[[_Rule], _Rule]:
    """Register a rule for ops."""

    def register(rule: _Rule) -> _Rule:
        for op in ops:
            if op in _RULES:
                raise ValueError(f"two rules for {op}")
            _RULES[op] = rule
        return rule

    return register


@_rule(aten._softmax_backward_data.default)
def _softmax_backward(grad: torch.Tensor, output: torch.Tensor, *_: Any) -> tuple[int, ...]:
    """Softmax backward makes grad * output in the wider of both dtypes (aten/src/ATen/native/cuda/SoftMax.cu)."""
    return (grad.numel() * max(grad.element_size(), output.element_size()),)


@_rule(aten.embedding.default)
def _embedding(_weight: torch.Tensor, indices: torch.Tensor, *_: Any) -> tuple[int, ...]:
    """Embedding flattens its indices, which copies them when they are an expanded view (native/Embedding.cpp)."""
    return () if indices.is_contiguous() else (indices.numel() * indices.element_size(),)


@_rule(aten._scaled_dot_product_flash_attention_backward.default)
def _flash_attention_backward(
    grad: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any
) -> tuple[int, ...]:
    """Flash attention backward accumulates dq in float32 and keeps row sums (flash_attn/flash_api.cpp, mha_bwd).

    Rows are padded to 128, head sizes to 32 (256 from 224 on). Grouped queries get dk and dv for each query head first.
    """
    batch, heads, queries, size = query.shape
    rows = -(-queries // 128) * 128
    padded = -(-size // 32) * 32 if size < 224 else 256
    sizes = (4 * batch * heads * rows, 4 * batch * rows * heads * padded)
    if key.shape[1] == heads:
        return sizes
    expanded = batch * key.shape[2] * heads * size * key.element_size()
    return (*sizes, expanded, expanded)


@_rule(aten._scaled_dot_product_efficient_attention_backward.default)
def _efficient_attention_backward(
    grad: torch.Tensor, query: torch.Tensor, key: torch.Tensor, *_: Any
) -> tuple[int, ...]:
    """Efficient attention backward makes delta, float32 of [batch, heads, queries] (cuda/attention_backward.cu).

    Its workspace is 0 while the accumulators stay in registers (half types, head size up to the tile's 64 or 128).
    """
    batch, heads, queries = query.shape[:3]
    return (4 * batch * heads * queries,)


@_rule(aten.native_layer_norm.default)
def _layer_norm(values: torch.Tensor, *_: Any) -> tuple[int, ...]:
    """Layer norm copies an input that is not contiguous (native/cuda/layer_norm_kernel.cu, layer_norm_cuda)."""
    return _copies(values)


@_rule(aten.native_layer_norm_backward.default)
def _layer_norm_backward(grad: torch.Tensor, values: torch.Tensor, *_: Any) -> tuple[int, ...]:
    """Its backward pass copies the gradient too (native/cuda/layer_norm_kernel.cu, layer_norm_backward_cuda)."""
    return (*_copies(grad), *_copies(values))


def _copies(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the size of a contiguous copy where a tensor is not contiguous."""
    return () if tensor.is_contiguous() else (tensor.numel() * tensor.element_size(),)
