"""Liger's fused linear cross-entropy: logits of a few positions at a time, and the gradients in the forward pass.

Source: liger-kernel 0.8.5, `fused_linear_cross_entropy_forward` (ops/fused_linear_cross_entropy.py),
`LigerForCausalLMLoss` (transformers/model/loss_utils.py) and `lce_forward` (transformers/model/qwen2.py; the others are
alike). The kernel of the cross-entropy writes the gradient over the logits; a gradient of the weight is added up in
cuBLAS, in place.

Not covered: labels with weights, smoothing, token scaling, and the accuracies that TRL before 1.15 asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inspector.trace.target import find_target
from inspector.workloads.base import base_model
from inspector.workloads.training.lm_losses.heads import find_head, run_as_head

__all__ = ["LigerLoss", "sum_up_losses"]

_IGNORED = -100
_HALF = (torch.float16, torch.bfloat16)


class LigerLoss:
    """The loss of a model that Liger has patched."""

    of_a_batch: ClassVar[str | None] = None

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Return the model with Liger's forward."""
        base: Any = base_model(model)
        head = find_head(base, "liger")

        def forward(*args: Any, labels: Tensor, **kwargs: Any) -> dict[str, Any]:
            outputs = base.base_model(*args, **kwargs)
            hidden_states = outputs[0]
            loss = run_as_head(head, _sum_up, head, hidden_states, labels, kwargs.get("num_items_in_batch"))
            return {"loss": loss}

        base.forward = forward
        return model

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss and the outputs."""
        outputs = forward(**batch, **count)
        return outputs["loss"], outputs

    def counts_labels(self, model: nn.Module, batch: Mapping[str, Any]) -> bool:
        """Return that labels are counted: Liger's forward takes any keyword."""
        return True


def _sum_up(head: Any, hidden_states: Tensor, labels: Tensor, number: Any) -> Tensor:
    """Return the loss of all positions, the last of which have no label."""
    labels = nn.functional.pad(labels, (0, 1), value=_IGNORED)
    shift_labels = labels[..., 1:].contiguous()
    hidden_states = hidden_states.view(-1, hidden_states.shape[-1])
    loss = sum_up_losses(hidden_states, head.weight, shift_labels.view(-1))
    if number is not None:
        loss = loss / number
    return loss


def sum_up_losses(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the loss of positions (rows, size) under a head (vocabulary, size) with a label each."""
    apply: Any = _FusedCrossEntropy.apply
    loss: Tensor = apply(hidden, weight, target)
    return loss


class _FusedCrossEntropy(torch.autograd.Function):
    """`LigerFusedLinearCrossEntropyFunction` with a mean or a sum."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        """Make the logits of each chunk, their gradient in their place, and add up what it gives."""
        (rows, size), vocabulary = hidden.shape, weight.shape[0]
        parts = -(-vocabulary // size)
        chunk = min(2 ** math.ceil(math.log2(-(-rows // parts))), rows)
        grad_input = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(weight) if weight.requires_grad and hidden.requires_grad else None
        losses = torch.zeros(rows, dtype=torch.float32, device=hidden.device)
        target_mask = target != _IGNORED
        target_mask.sum().item()
        writes_in_place = _can_write(hidden, weight)
        storage = (
            torch.empty((chunk, vocabulary), dtype=hidden.dtype, device=hidden.device) if writes_in_place else None
        )
        for start in range(0, rows, chunk):
            end = min(start + chunk, rows)
            hidden_chunk = hidden[start:end]
            if storage is not None:
                logits = storage[: end - start]
                torch.mm(hidden_chunk, weight.t(), out=logits)
            else:
                logits = hidden_chunk @ weight.t()
            logits = logits.contiguous()
            target_chunk = target[start:end].contiguous()
            grad_logits = logits
            del logits
            losses_of_chunk = losses[start:end]  # a name that keeps them to the end of the function, as Liger's does
            losses[start:end] = losses_of_chunk
            if hidden.requires_grad:
                if writes_in_place and grad_logits.dtype == grad_input.dtype:
                    torch.mm(grad_logits, weight, out=grad_input[start:end])
                else:
                    grad_input[start:end] = grad_logits @ weight
            if grad_weight is not None:
                _add_product(grad_weight, grad_logits, hidden_chunk)
            del grad_logits, hidden_chunk, target_chunk
        del storage
        loss = torch.sum(losses)
        ctx.save_for_backward(grad_input.detach(), None if grad_weight is None else grad_weight.detach())
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what is there already, in place."""
        grad_input, grad_weight = ctx.saved_tensors
        one = torch.tensor(1.0, device=gradients[0].device)
        torch.eq(gradients[0], one).all()
        return grad_input, grad_weight, None


def _can_write(hidden: Tensor, weight: Tensor) -> bool:
    """Tell whether products are written into one buffer: where autocast would cast nothing (`_can_use_mm_out`)."""
    if hidden.dtype != weight.dtype:
        return False
    return not torch.is_autocast_enabled("cuda") or hidden.dtype is torch.get_autocast_dtype("cuda")


def _add_product(total: Tensor, grad_logits: Tensor, hidden: Tensor) -> None:
    """Add the gradient of the weight, in place on compute capability 8.0 and newer."""
    is_recent = find_target().compute_capability >= (8, 0)
    if is_recent and grad_logits.dtype in _HALF and total.dtype in (torch.float32, grad_logits.dtype):
        hidden.to(grad_logits.dtype)
    else:
        total += torch.mm(grad_logits.t(), hidden).float()
