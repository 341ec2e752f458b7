"""causal-conv1d on meta: what its functions make, keep and free.

Source: causal-conv1d 1.7.0, causal_conv1d_interface.py (`CausalConv1dFn`), cpp_functions.py (which makes what the
kernels write to) and csrc/causal_conv1d.cpp (`causal_conv1d_bwd`, which copies a gradient of another layout).

Not covered: initial and final states, and deterministic mode, which adds workspaces.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inspector.errors import UsageError

__all__ = ["causal_conv1d_fn", "convolve", "find_convolution_gradients"]

_WIDTHS = (2, 3, 4)


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """Convolve [batch, channels, positions] with [channels, width]."""
    result: Tensor = _CausalConv1d.apply(x, weight, bias, seq_idx, activation)  # type: ignore[no-untyped-call]
    return result


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Return the output of the kernel (`causal_conv1d_fwd_function`)."""
    if weight.shape[-1] not in _WIDTHS:
        raise UsageError(
            f"causal-conv1d takes convolutions of 2 to 4 positions, and this one has {weight.shape[-1]}; use "
            '`kernels="torch"`.'
        )
    return torch.empty_like(x)


def find_convolution_gradients(
    x: Tensor, weight: Tensor, bias: Tensor | None, gradient: Tensor, dx: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of input, weight and bias, the first one in `dx` if given (`causal_conv1d_bwd_function`)."""
    if dx is None:
        dx = torch.empty_like(x)
    weight_sums = torch.zeros_like(weight, dtype=torch.float32)
    bias_sums = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
    is_channel_last = x.stride(1) == 1 and x.stride(2) > 1
    if is_channel_last and gradient.stride(1) != 1:
        copy = gradient.transpose(-1, -2).contiguous()
        del copy
    elif not is_channel_last and gradient.stride(2) != 1:
        copy = gradient.contiguous()
        del copy
    weight_sums = weight_sums.type_as(weight)
    if bias_sums is not None and bias is not None:
        bias_sums = bias_sums.type_as(bias)
    return dx, weight_sums, bias_sums


class _CausalConv1d(torch.autograd.Function):
    """`CausalConv1dFn`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor | None, activation: str | None
    ) -> Tensor:
        """Make the output; input and weight are kept."""
        if activation not in (None, "silu", "swish"):
            raise UsageError(f'causal-conv1d has no activation {activation}; use `kernels="torch"`.')
        if x.stride(2) != 1 and x.stride(1) != 1:
            x = x.contiguous()
        bias = None if bias is None else bias.contiguous()
        seq_idx = None if seq_idx is None else seq_idx.contiguous()
        out = convolve(x, weight)
        ctx.save_for_backward(x, weight, bias, seq_idx)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Make the gradients."""
        x, weight, bias, _seq_idx = ctx.saved_tensors
        (gradient,) = gradients
        if gradient.stride(2) != 1 and gradient.stride(1) != 1:
            gradient = gradient.contiguous()
        dx, dweight, dbias = find_convolution_gradients(x, weight, bias, gradient)
        return dx, dweight, dbias, None, None
