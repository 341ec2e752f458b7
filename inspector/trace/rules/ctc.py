"""CTC loss as it runs outside of a dispatch mode: the lengths are read on the host, and the op takes numbers.

Under a mode torch takes an overload with tensors of lengths, which has no kernel on meta and keeps them for the
backward pass (ATen/native/LossCTC.cpp, `ctc_loss`).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["compute_ctc_loss"]

aten = torch.ops.aten
_MEAN, _SUM = 1, 2


def compute_ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = 0,
    reduction: int = _MEAN,
    zero_infinity: bool = False,
) -> Tensor:
    """Return the loss of [time, batch, labels] log-probabilities, as `ctc_loss_impl` does without cuDNN."""
    inputs, lengths = input_lengths.tolist(), target_lengths.tolist()
    is_batched = log_probs.dim() == 3
    losses: Tensor = aten._ctc_loss.default(
        log_probs if is_batched else log_probs.unsqueeze(1), targets, inputs, lengths, blank, zero_infinity
    )[0]
    if zero_infinity:
        losses = torch.where(losses == float("inf"), losses.new_zeros(()), losses)
    if reduction == _MEAN:
        divisor = torch.tensor(lengths, dtype=losses.dtype, device="cpu").to(losses.device).clamp_min(1)
        return (losses / divisor).mean()
    if reduction == _SUM:
        return losses.sum()
    return losses if is_batched else losses.squeeze(0)
