"""CTC loss: what its kernels take beside the losses and the alphas that they return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inspector.trace.kernels.registry import Scratch, kernel

__all__: list[str] = []

aten = torch.ops.aten

_INDEX_BYTES = 8


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
