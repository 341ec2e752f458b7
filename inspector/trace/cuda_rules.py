"""Ops that CUDA runs otherwise than meta does, installed in the dispatcher for the time of a trace.

Each rule is an implementation for the key AutogradMeta: it sits above autograd's own formulas, sees meta tensors only,
and is active in recomputed blocks too, where a TorchFunctionMode is not. When the block ends the rules are gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inspector.trace.autocast import autocast_for_meta
from inspector.trace.platform import Platform

__all__ = ["cuda_rules"]

aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)


@contextlib.contextmanager
def cuda_rules(platform: Platform, sdpa_backend: str = "auto") -> Iterator[None]:
    """Make meta tensors follow the rules of CUDA on `platform` inside the block."""
    # Replacing a kernel is the purpose here; torch warns about it once for each op.
    library = torch.library.Library("aten", "IMPL")
    rules: dict[str, Callable[..., Any]] = {
        "scaled_dot_product_attention": _Attention(platform, sdpa_backend),
        "softmax.int": _softmax,
        "log_softmax.int": _log_softmax,
        "dropout": _dropout,
    }
    for name, rule in rules.items():
        library.impl(name, rule, "AutogradMeta")
    try:
        with autocast_for_meta():
            yield
    finally:
        library._destroy()


def _softmax(values: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax of float16 into float32 is one kernel on CUDA, without a float32 copy of its input (SoftMax.cpp)."""
    if values.dtype is torch.float16 and dtype is torch.float32:
        return aten._softmax.default(values, dim, True)
    return aten._softmax.default(values if dtype is None else values.to(dtype), dim, False)


def _log_softmax(values: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """As `_softmax`, for its logarithm."""
    if values.dtype is torch.float16 and dtype is torch.float32:
        return aten._log_softmax.default(values, dim, True)
    return aten._log_softmax.default(values if dtype is None else values.to(dtype), dim, False)


def _dropout(values: Tensor, p: float, train: bool) -> Tensor:
    """Dropout is one kernel on CUDA that keeps a boolean mask; meta keeps noise in the input's dtype (Dropout.cpp)."""
    if not train or p == 0 or values.numel() == 0:
        return values
    if p == 1:
        return values * torch.zeros_like(values)
    return aten.native_dropout.default(values, p, train)[0]


@dataclass(frozen=True, slots=True)
class _Attention:
    """Scaled dot-product attention by the kernel that CUDA chooses (cuda/sdp_utils.cpp, transformers/attention.cpp)."""

    platform: Platform
    backend: str

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Run the chosen kernel's op, whose meta kernel and formula are torch's own."""
        grouped = enable_gqa and query.shape[-3] != key.shape[-3]
        if self._fits_flash(query, key, value, attn_mask):
            return aten._scaled_dot_product_flash_attention.default(
                query, key, value, dropout_p, is_causal, False, scale=scale
            )[0]
        if self._fits_efficient(query, value) and not grouped:
            keeps_sums = torch.is_grad_enabled() and any(item.requires_grad for item in (query, key, value))
            mask = _additive_mask(attn_mask, query)
            return aten._scaled_dot_product_efficient_attention.default(
                query, key, value, mask, keeps_sums, dropout_p, is_causal, scale=scale
            )[0]
        return aten._scaled_dot_product_attention_math.default(
            query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )[0]

    def _fits_flash(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
        """Tell whether flash attention takes these: half types, no mask, equal head sizes up to 256, sm_80 on."""
        if self.backend not in ("auto", "flash") or mask is not None or query.dtype not in _HALF:
            return False
        sizes = {query.shape[-1], key.shape[-1], value.shape[-1]}
        return len(sizes) == 1 and max(sizes) <= 256 and self.platform.compute_capability >= (8, 0)

    def _fits_efficient(self, query: Tensor, value: Tensor) -> bool:
        """Tell whether efficient attention takes these: aligned head sizes, bfloat16 from sm_80 on."""
        if self.backend not in ("auto", "efficient"):
            return False
        if query.dtype is torch.bfloat16 and self.platform.compute_capability < (8, 0):
            return False
        alignment = 8 if query.dtype in _HALF else 4
        return query.shape[-1] % alignment == 0 and value.shape[-1] % alignment == 0


def _additive_mask(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """Return the mask as the efficient kernel takes it: additive in the query's dtype, padded to 8, expanded."""
    if mask is None:
        return None
    if mask.dtype is torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask, 0)
    last = mask.shape[-1]
    if last % 8:
        mask = torch.nn.functional.pad(mask, (0, 8 - last % 8))[..., :last]
    return mask.expand(*query.shape[:-1], last)
