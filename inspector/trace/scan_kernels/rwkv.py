"""RWKV's kernel on meta: what transformers' function around it makes, keeps and frees.

Source: transformers 5.23, models/rwkv/modeling_rwkv.py (`RwkvLinearAttention`). The kernel itself, from the Hub
(kernels-community/rwkv), writes into what that function has made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["rwkv_linear_attention"]

_DENSE = torch.contiguous_format


def rwkv_linear_attention(
    time_decay: Tensor,
    time_first: Tensor,
    key: Tensor,
    value: Tensor,
    state: list[Tensor] | None = None,
    return_state: bool = False,
) -> tuple[Tensor, list[Tensor] | None]:
    """Return what [batch, positions, channels] of values are weighed to, and the state where that is asked for."""
    output, *parts = _LinearAttention.apply(  # type: ignore[no-untyped-call]
        time_decay, time_first, key, value, state, return_state
    )
    return output, parts or None


class _LinearAttention(torch.autograd.Function):
    """`RwkvLinearAttention`."""

    @staticmethod
    def forward(
        ctx: Any,
        time_decay: Tensor,
        time_first: Tensor,
        key: Tensor,
        value: Tensor,
        state: list[Tensor] | None,
        return_state: bool,
    ) -> tuple[Tensor, ...]:
        """Make the output, and in half precision float32 copies of all that the kernel reads."""
        ctx.input_dtype = key.dtype
        time_decay = -torch.exp(time_decay.float().contiguous())
        if key.dtype == torch.float16:
            time_first, key, value = time_first.float(), key.float(), value.float()
        time_first, key, value = time_first.contiguous(), key.contiguous(), value.contiguous()
        output = torch.empty_like(key, memory_format=_DENSE)
        parts: tuple[Tensor, ...] = ()
        if state is not None:
            parts = torch.cat([item.unsqueeze(2) for item in state], dim=2).contiguous().chunk(3, dim=2)
        elif return_state:
            made = torch.zeros(key.shape[0], key.shape[2], 3, dtype=torch.float32, device=key.device)
            made[:, :, 2] -= 1e38
            parts = made.chunk(3, dim=2)
        ctx.save_for_backward(time_decay, time_first, key, value, output)
        return output.to(ctx.input_dtype), *(part.squeeze(2) for part in parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Make the gradients."""
        dtype = ctx.input_dtype
        time_decay, time_first, key, value, _output = ctx.saved_tensors
        of_decay = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        made = [
            torch.empty_like(time_decay, memory_format=_DENSE, dtype=of_decay),
            *(torch.empty_like(item, memory_format=_DENSE) for item in (time_first, key, value)),
        ]
        gradient = gradients[0].float() if dtype == torch.float16 else gradients[0]
        dense = gradient.contiguous()
        del dense
        return *(item.to(dtype) for item in made), None, None
