"""Two of Liger's ops as the releases that were benchmarked had them, statement by statement.

What stands in for Liger is written after 0.8.5, which takes less: with these the cause of a difference is held too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from inspector.workloads.training.lm_losses import liger_layers

__all__ = ["normalize", "sum_up_losses"]


def normalize(values: Tensor, weight: nn.Parameter) -> Tensor:
    """Return what RMSNorm of 0.2.1 returns (ops/rms_norm.py): a gradient of the weight for each position."""
    apply: Any = _RmsNorm.apply
    result: Tensor = apply(values, weight)
    return result


class _RmsNorm(liger_layers.RmsNorm):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        return liger_layers.RmsNorm.forward(ctx, x, weight, True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dy = gradients[0].contiguous()
        x, weight, _ = ctx.saved_tensors
        dw = torch.empty_like(x, dtype=weight.dtype)
        dw = torch.sum(dw, dim=0).to(weight.dtype)
        return dy.view(dy.shape), dw


def sum_up_losses(values: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Return the loss as 0.4.2 does (ops/fused_linear_cross_entropy.py): tiles go to float32, back, and are scaled."""
    apply: Any = _FusedCrossEntropy.apply
    result: Tensor = apply(values, weight, labels)
    return result


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        rows, parts = values.shape[0], -(-weight.shape[0] // values.shape[1])
        chunk = 2 ** math.ceil(math.log2(-(-rows // parts)))
        grad_weight, grad_input = torch.zeros_like(weight), torch.zeros_like(values)
        losses = torch.zeros(rows, dtype=torch.float32, device=values.device)
        total = (labels != -100).sum()
        for start in range(0, rows, chunk):
            end = min(start + chunk, rows)
            logits = values[start:end] @ weight.t()
            count: Any = (labels[start:end] != -100).sum().item()
            logits = logits.float()
            logits = logits.to(values.dtype)
            alpha = count / total
            losses[start:end] = losses[start:end] * alpha
            scaled = logits * alpha
            grad_input[start:end] = scaled @ weight
            del count
        ctx.save_for_backward(grad_input.detach(), grad_weight.detach())
        return torch.sum(losses)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_input, grad_weight = ctx.saved_tensors
        torch.ne(gradients[0], torch.tensor(1.0, device=gradients[0].device))
        return grad_input, grad_weight, None
