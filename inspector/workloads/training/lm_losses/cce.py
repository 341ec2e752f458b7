"""Cut-cross-entropy: a loss that makes no logits, forward or backward.

Source: cut-cross-entropy 25.1.1, `cce_linear_cross_entropy` and `LinearCrossEntropyFunction` (cce.py), its kernels
(cce_lse_forward.py, indexed_dot.py, cce_backward.py) and utils.py; a patched model calls it with shifted labels and
divides their sum by the number of labels.

Not covered: what autotuning takes in the first step, a buffer of 256 MiB for each of three kernels while it measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inspector.dtypes import dtype_name
from inspector.errors import UsageError
from inspector.workloads.base import base_model
from inspector.workloads.training.lm_losses.heads import find_head, run_as_head

__all__ = ["CutCrossEntropy"]

_IGNORED = -100
_HALF = (torch.float16, torch.bfloat16)
_POSITIONS_PER_LOCK = 128
_COLUMNS_PER_LOCK = 64


class CutCrossEntropy:
    """The loss of a model that cut-cross-entropy has patched."""

    of_a_batch: ClassVar[str | None] = None

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Return the model with the patched forward."""
        base: Any = base_model(model)
        head = find_head(base, "cce")
        cap = getattr(base.config.get_text_config(), "final_logit_softcapping", None)

        def forward(*args: Any, labels: Tensor, **kwargs: Any) -> dict[str, Any]:
            outputs = base.base_model(*args, **kwargs)
            hidden_states = outputs[0]
            number = kwargs.get("num_items_in_batch")
            return {"loss": run_as_head(head, _sum_up, head, hidden_states, labels, number, cap)}

        base.forward = forward
        return model

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss and the outputs."""
        outputs = forward(**batch, **count)
        return outputs["loss"], outputs

    def counts_labels(self, model: nn.Module, batch: Mapping[str, Any]) -> bool:
        """Return that labels are counted: the patched forward takes any keyword."""
        return True


def _sum_up(head: Any, hidden_states: Tensor, labels: Tensor, number: Any, cap: float | None) -> Tensor:
    """Return the loss of the positions that have a label."""
    if hidden_states.dtype not in _HALF:
        raise UsageError(
            f"cut-cross-entropy takes hidden states in float16 and bfloat16, not {dtype_name(hidden_states.dtype)}: "
            "use `dtype=bfloat16`, or another `loss`."
        )
    hidden_states, labels = hidden_states.contiguous(), labels.contiguous()
    valids = _find_valid(labels)
    apply: Any = _CutCrossEntropy.apply
    loss: Tensor = apply(hidden_states.flatten(0, -2), head.weight, labels.flatten(), valids, cap, number is None)
    if number is not None:
        loss = loss / number
    return loss


def _find_valid(labels: Tensor) -> Tensor:
    """Return where a label is that the position before it predicts."""
    labels = labels[..., 1:]
    valids = (labels != _IGNORED).nonzero().to(torch.int32)
    valids[:, 0] *= labels.stride(0)
    return valids.sum(1)


class _CutCrossEntropy(torch.autograd.Function):
    """`LinearCrossEntropyFunction` with shifted labels and the default filter."""

    @staticmethod
    def forward(
        ctx: Any, e: Tensor, c: Tensor, targets: Tensor, valids: Tensor, cap: float | None, is_mean: bool
    ) -> Tensor:
        """Make a normalizer and a logit for each position that has a label."""
        rows = valids.numel()
        lse = e.new_full((rows,), -float("inf"), dtype=torch.float32)
        locks = e.new_full((-(-rows // _POSITIONS_PER_LOCK),), 0, dtype=torch.uint32)
        logit_avg = e.new_full((c.shape[0],), 0.0, dtype=torch.float32) if e.requires_grad or c.requires_grad else None
        del locks
        neg_dot = e.new_zeros((rows,), dtype=torch.float32)
        if cap is not None:
            neg_dot = torch.empty_like(neg_dot)
        nll = neg_dot.add_(lse)
        loss = nll.mean() if is_mean else nll.sum()
        ctx.save_for_backward(e, c, lse, targets, valids, logit_avg)
        ctx.params = targets, valids  # as long as the graph lives, beside what is saved
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Add up both gradients behind locks, words with large logits first."""
        e, c, _lse, _targets, valids, logit_avg = ctx.saved_tensors
        ordering = torch.argsort(logit_avg).to(torch.int32)
        de = torch.zeros_like(e)
        dc = torch.zeros_like(c, dtype=e.dtype) if ctx.needs_input_grad[1] else None
        columns = -(-c.size(1) // _COLUMNS_PER_LOCK)
        de_locks = e.new_zeros((-(-valids.size(0) // columns), columns), dtype=torch.int32)
        dc_locks = c.new_zeros((-(-c.size(0) // columns), columns), dtype=torch.int32)
        dc = None if dc is None else dc.to(c.dtype)
        del de_locks, dc_locks, ordering  # in this order: the first two are names of an inner function there
        return de, dc, None, None, None, None
