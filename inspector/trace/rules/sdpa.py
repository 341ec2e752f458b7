"""Scaled dot-product attention by the kernel that CUDA chooses, where meta would only know the quadratic maths.

The choice follows cuda/sdp_utils.cpp, the preparation of masks and the maths transformers/attention.cpp. The fused ops
have meta kernels and gradient formulas of torch's own; what their kernels take beside tensors is in
`inspector.trace.kernels.attention`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inspector.errors import UsageError
from inspector.hardware.platform import Platform

__all__ = ["Attention"]

aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments of one attention: query, key and value of [batch, heads, rows, size], and the mask."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    dropout_p: float
    is_causal: bool
    scale: float | None
    enable_gqa: bool

    @property
    def sizes(self) -> set[int]:
        """Return the head sizes."""
        return {self.query.shape[-1], self.key.shape[-1], self.value.shape[-1]}

    @property
    def heads(self) -> set[int]:
        """Return the numbers of heads."""
        return {self.query.shape[-3], self.key.shape[-3], self.value.shape[-3]}

    @property
    def is_batched(self) -> bool:
        """Tell whether all three are of four dimensions and one batch, as every fused kernel wants them."""
        tensors = (self.query, self.key, self.value)
        return all(item.dim() == 4 for item in tensors) and len({item.shape[0] for item in tensors}) == 1

    @property
    def has_fitting_heads(self) -> bool:
        """Tell whether the heads match, or may be grouped because the caller allows it."""
        grouped = self.key.shape[-3] == self.value.shape[-3] and self.query.shape[-3] % self.key.shape[-3] == 0
        return len(self.heads) == 1 or (self.enable_gqa and grouped)

    @property
    def keeps_sums(self) -> bool:
        """Tell whether a backward pass will follow."""
        return torch.is_grad_enabled() and any(item.requires_grad for item in (self.query, self.key, self.value))


@dataclass(frozen=True, slots=True)
class Attention:
    """`aten::scaled_dot_product_attention` as it runs on a platform; `backend` is auto or the one kernel allowed."""

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
        """Run the first kernel of CUDA's order that takes these arguments."""
        call = _Call(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        kernels: dict[str, tuple[Callable[[_Call], bool], Callable[[_Call], Tensor]]] = {
            "flash": (self._takes_flash, _flash),
            "efficient": (self._takes_efficient, _efficient),
            "cudnn": (self._takes_cudnn, _cudnn),
        }
        for name in self._order():
            takes, run = kernels[name]
            if self.backend in ("auto", name) and call.is_batched and call.has_fitting_heads and takes(call):
                return run(call)
        if self.backend not in ("auto", "math"):
            raise UsageError(
                f"`sdpa_backend` {self.backend}: torch refuses, because that kernel does not take the heads, mask or "
                'dtype of this attention on this GPU; use `sdpa_backend="auto"`.'
            )
        return _math(call)

    def _order(self) -> tuple[str, ...]:
        """Return CUDA's order."""
        if self.platform.prefers_cudnn:
            return ("cudnn", "flash", "efficient")
        return ("flash", "efficient", "cudnn") if self.backend == "cudnn" else ("flash", "efficient")

    def _takes_flash(self, call: _Call) -> bool:
        """Half types, no mask, equal head sizes up to 256, sm_80 on; large heads that train need shared memory."""
        capability = self.platform.compute_capability
        if capability < (8, 0) or call.mask is not None or call.query.dtype not in _HALF or len(call.sizes) != 1:
            return False
        size = max(call.sizes)
        if call.is_causal and call.query.shape[-2] != call.key.shape[-2]:
            return False
        is_small = capability in ((8, 6), (8, 9), (12, 0), (12, 1))
        if is_small and call.keeps_sums and (192 < size <= 224 or (size > 224 and call.dropout_p > 0)):
            return False
        return size <= 256

    def _takes_efficient(self, call: _Call) -> bool:
        """Aligned head sizes, equal numbers of heads, bfloat16 from sm_80 on.

        A last stride other than 1 is refused even of a dimension of 1, which flash takes (sdp_utils_cpp.h,
        check_last_dim_stride_equals_1).
        """
        capability = self.platform.compute_capability
        given = (call.query, call.key, call.value, call.mask)
        if any(tensor is not None and tensor.stride(-1) != 1 for tensor in given):
            return False
        if len(call.heads) != 1 or (call.query.dtype is torch.bfloat16 and capability < (8, 0)):
            return False
        if call.query.shape[-1] != call.key.shape[-1]:
            return False
        if call.query.dtype in _HALF:
            alignment = 8
        elif call.query.dtype is torch.float32:
            alignment = 4 if capability >= (8, 0) else 1
        else:
            return False
        return call.query.shape[-1] % alignment == 0 and call.value.shape[-1] % alignment == 0

    def _takes_cudnn(self, call: _Call) -> bool:
        """Half types, head sizes in eighths up to 128 (256 on Hopper), masks without gradients, more than one key."""
        capability = self.platform.compute_capability
        if capability < (8, 0) or call.query.dtype not in _HALF or call.key.shape[-2] == 1:
            return False
        if call.mask is not None and call.mask.requires_grad:
            return False
        largest = 256 if capability == (9, 0) else 128
        return all(size % 8 == 0 and size <= largest for size in call.sizes)


def _flash(call: _Call) -> Tensor:
    """Run flash attention, with head sizes padded to multiples of 8."""
    size = call.query.shape[-1]
    scale = call.scale if call.scale is not None else 1 / math.sqrt(size)
    tensors = [call.query, call.key, call.value]
    if size % 8:
        tensors = [torch.nn.functional.pad(tensor, (0, 8 - size % 8)) for tensor in tensors]
    output = _take_first(
        aten._scaled_dot_product_flash_attention.default(*tensors, call.dropout_p, call.is_causal, False, scale=scale)
    )
    return output[..., :size] if size % 8 else output


def _take_first(results: Any) -> Tensor:
    """Return the first of several results and let the others go in their order, as C++ does with a tuple."""
    left = list(results)
    del results
    first: Tensor = left.pop(0)
    while left:
        left.pop(0)
    return first


def _efficient(call: _Call) -> Tensor:
    """Run efficient attention, whose mask is additive in the query's dtype, padded to 8 columns, and expanded."""
    mask = _additive(call.mask, call.query.dtype)
    if mask is not None:
        last = mask.shape[-1]
        if last % 8:
            mask = torch.nn.functional.pad(mask, (0, 8 - last % 8))[..., :last]
        mask = mask.expand(*call.query.shape[:-1], last)
    return aten._scaled_dot_product_efficient_attention.default(
        call.query, call.key, call.value, mask, call.keeps_sums, call.dropout_p, call.is_causal, scale=call.scale
    )[0]


def _cudnn(call: _Call) -> Tensor:
    """Run the attention of cuDNN, whose mask is additive."""
    mask = _additive(call.mask, call.query.dtype)
    return aten._scaled_dot_product_cudnn_attention.default(
        call.query,
        call.key,
        call.value,
        mask,
        call.keeps_sums,
        call.dropout_p,
        call.is_causal,
        False,
        scale=call.scale,
    )[0]


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a boolean mask as what is added: 0 where it is true, minus infinity elsewhere."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    nothing, never = (torch.scalar_tensor(value, dtype=dtype, device=mask.device) for value in (0.0, -math.inf))
    result = torch.where(mask, nothing, never)
    del nothing, never  # before the mask, which the caller may leave to this function alone
    return result


def _math(call: _Call) -> Tensor:
    """Run the quadratic maths, half types in float32; what torch's function holds until it returns, this one does too.

    Written out because torch's own function adds the mask out of place while a dispatch mode is active.
    """
    given = _additive(call.mask, call.query.dtype)
    query, key, value = (item.float() if item.dtype in _HALF else item for item in (call.query, call.key, call.value))
    scale = call.scale if call.scale is not None else 1 / math.sqrt(query.shape[-1])
    root = math.sqrt(abs(scale))
    scaled = query * math.copysign(root, scale)
    mask = _additive(_lower_triangle(query, key), query.dtype) if call.is_causal else given
    if call.enable_gqa and query.shape[-3] != key.shape[-3]:
        repeats = query.shape[-3] // key.shape[-3]
        keys, values = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    else:
        keys, values = key, value
    weights = torch.matmul(scaled, keys.transpose(-2, -1) * root)
    if mask is not None:
        weights.add_(mask)
    weights = aten._safe_softmax.default(weights, -1)
    if call.dropout_p > 0:
        weights = torch.dropout(weights, call.dropout_p, True)
    # torch returns the weights too, in the dtype of the query, before the caller drops them.
    returned = weights.to(call.query.dtype)
    output = torch.matmul(weights, values).to(call.query.dtype)
    del scaled, keys, mask, values, key, value, query, returned
    return output


def _lower_triangle(query: Tensor, key: Tensor) -> Tensor:
    """Return the mask of causal attention."""
    return torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
