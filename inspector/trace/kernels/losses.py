"""Losses: what CTC, binary cross entropy, differences and distances take beside what they return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inspector.trace.kernels.reductions import reduce
from inspector.trace.kernels.registry import Scratch, kernel

__all__: list[str] = []

aten = torch.ops.aten

_INDEX_BYTES = 8
_MEAN = 1
_NO_REDUCTION = 0


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


@kernel(aten.binary_cross_entropy_with_logits.default, allocates_outputs=True)
def _binary_cross_entropy(
    scratch: Scratch,
    logits: Tensor,
    labels: Tensor,
    _weight: Tensor | None = None,
    positive: Tensor | None = None,
    reduction: int = 1,
) -> None:
    """Take logarithms of sigmoids, and a loss of each number (native/Loss.cpp, `binary_cross_entropy_with_logits`)."""
    shape = torch.broadcast_shapes(logits.shape, labels.shape)
    size = shape.numel() * logits.element_size()
    logarithms = scratch.take(logits.numel() * logits.element_size())
    if positive is not None:
        less_one = scratch.take(positive.numel() * positive.element_size())
        weights = scratch.take(size)
        scratch.give(less_one)
        scratch.give(weights)
    if reduction == _NO_REDUCTION:
        scratch.outputs()
        scratch.give(logarithms)
        return
    scratch.take(size)
    scratch.outputs()
    reduce(scratch, logits.new_empty(shape, device="meta"), (), max(logits.element_size(), 4))


@kernel(aten._cdist_forward.default, allocates_outputs=True)
def _distances(scratch: Scratch, *given: Any) -> None:
    """Copy rows that are not contiguous (native/Distance.cpp, `cdist_impl`)."""
    for rows in given[:2]:
        if not rows.is_contiguous():
            scratch.take(rows.numel() * rows.element_size())
    scratch.outputs()


@kernel(aten._euclidean_dist.default, allocates_outputs=True)
def _euclidean_distances(scratch: Scratch, first: Tensor, second: Tensor) -> None:
    """Make a matrix product of the squares and the rows (native/Distance.cpp, `_euclidean_dist`)."""
    unit = first.element_size()
    norms: list[int] = []
    for rows in (first, second):
        squares = scratch.take(rows.numel() * unit)
        norms.append(scratch.take(rows.shape[:-1].numel() * unit))
        scratch.give(squares)
        norms.append(scratch.take(rows.shape[:-1].numel() * unit))  # ones beside
    doubled = scratch.take(first.numel() * unit)
    for place, rows in enumerate((first, second)):
        scratch.take((rows.numel() + 2 * rows.shape[:-1].numel()) * unit)
        for block in norms[2 * place : 2 * place + 2]:
            scratch.give(block)
        if place == 0:
            scratch.give(doubled)
    scratch.outputs()


@kernel(aten.mse_loss.default, aten.smooth_l1_loss.default)
def _differences(scratch: Scratch, values: Tensor, targets: Tensor, reduction: int = _MEAN, *_: Any) -> None:
    """Make all losses beside the result, and reduce them (ATen/native/Loss.cpp, `mse_loss_out`)."""
    if reduction != _NO_REDUCTION:
        scratch.give(_reduce_losses(scratch, values, targets))


@kernel(aten.huber_loss.default, allocates_outputs=True)
def _huber_loss(scratch: Scratch, values: Tensor, targets: Tensor, reduction: int = _MEAN, *_: Any) -> None:
    """Make all losses, and then the result of them (ATen/native/Loss.cpp, `huber_loss`)."""
    if reduction == _NO_REDUCTION:
        scratch.outputs()
        return
    scratch.give(_reduce_losses(scratch, values, targets, is_made_after=True))


def _reduce_losses(scratch: Scratch, values: Tensor, targets: Tensor, *, is_made_after: bool = False) -> int:
    """Take a loss for each difference and what their reduction needs; return the block of the former."""
    losses = torch.empty_like(values + targets)
    block = scratch.take(losses.numel() * losses.element_size())
    if is_made_after:
        scratch.outputs()
    reduce(scratch, losses, [], max(losses.element_size(), 4))
    return block
