"""Losses: what the kernels of CTC take beside losses and alphas, and those of differences beside their one number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inspector.trace.kernels.reductions import reduce
from inspector.trace.kernels.registry import Scratch, kernel

__all__: list[str] = []

aten = torch.ops.aten

_INDEX_BYTES = 8
_NONE, _MEAN = 0, 1
_ACCUMULATOR_BYTES = 4


@kernel(aten.mse_loss.default, aten.smooth_l1_loss.default)
def _differences(scratch: Scratch, values: Tensor, targets: Tensor, reduction: int = _MEAN, *_: Any) -> None:
    """Make all losses beside the result, and reduce them (ATen/native/Loss.cpp, `mse_loss_out`)."""
    if reduction != _NONE:
        scratch.give(_reduce_losses(scratch, values, targets))


@kernel(aten.huber_loss.default, allocates_outputs=True)
def _huber_loss(scratch: Scratch, values: Tensor, targets: Tensor, reduction: int = _MEAN, *_: Any) -> None:
    """Make all losses, and then the result of them (ATen/native/Loss.cpp, `huber_loss`)."""
    if reduction == _NONE:
        scratch.outputs()
        return
    scratch.give(_reduce_losses(scratch, values, targets, is_made_after=True))


def _reduce_losses(scratch: Scratch, values: Tensor, targets: Tensor, *, is_made_after: bool = False) -> int:
    """Take a loss for each difference and what their reduction needs; return the block of the former."""
    losses = torch.empty_like(values + targets)
    block = scratch.take(losses.numel() * losses.element_size())
    if is_made_after:
        scratch.outputs()
    reduce(scratch, losses, [], max(_ACCUMULATOR_BYTES, losses.element_size()))
    return block


@kernel(aten._ctc_loss.default, allocates_outputs=True)
def _ctc_loss(scratch: Scratch, log_probs: Tensor, *_: Any) -> None:
    """Bring the lengths and the offsets of the targets to the device, and then make alphas before losses.

    Source: ATen/native/cuda/LossCTC.cu, `ctc_loss_gpu_template`.
    """
    sizes = _INDEX_BYTES * log_probs.shape[1]
    for _length in range(3):
        scratch.take(sizes)
    scratch.outputs(1, 0)


@kernel(aten._ctc_loss_backward.default, allocates_outputs=True)
def _ctc_loss_backward(scratch: Scratch, _grad: Tensor, _log_probs: Tensor, *rest: Any) -> None:
    """Bring the same to the device, and make the betas, as large as the alphas, before the gradient.

    Source: ATen/native/cuda/LossCTC.cu, `ctc_loss_backward_gpu_template`.
    """
    alphas: Tensor = rest[4]
    sizes = _INDEX_BYTES * alphas.shape[0]
    for _length in range(3):
        scratch.take(sizes)
    scratch.take(alphas.numel() * alphas.element_size())
    scratch.outputs()
