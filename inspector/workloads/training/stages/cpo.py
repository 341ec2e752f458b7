"""CPO: chosen and rejected answers in one batch and no reference; the loss compares them, beside that of the chosen.

Source: experimental/cpo/cpo_trainer.py of TRL 1.16, a neighbour of ORPO's: all logits, a copy of those of the chosen
rows for the cross-entropy of their answers. Its `loss_type="simpo"` divides by the lengths, too. What it logs is part
of it; statements, names and their order are TRL's.

Not covered: `cpo_alpha=0`, which makes no cross-entropy, and rewards transformed as AlphaPO's are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from inspector.workloads.training.stages.log_probs import IGNORED, score_labels
from inspector.workloads.training.stages.orpo import compute_cross_entropy, join_parts
from inspector.workloads.training.stages.stage_loss import StageLoss

__all__ = ["CpoLoss"]

_BETA = 0.1
_ALPHA = 1.0


class CpoLoss(StageLoss):
    """The loss of a batch of pairs: `chosen_...` and `rejected_...` ids, masks and labels."""

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss."""
        chosen_logps, rejected_logps, chosen_logits, rejected_logits, nll_loss = _forward_both(forward, batch)
        losses, chosen_rewards, rejected_rewards = _compare(chosen_logps, rejected_logps)
        loss: Tensor = losses.mean() + _ALPHA * nll_loss
        accuracies = (chosen_rewards > rejected_rewards).float()
        for logged in (chosen_rewards, rejected_rewards, accuracies):
            logged.mean()
        (chosen_rewards - rejected_rewards).mean()
        for logged in (rejected_logps, chosen_logps):
            logged.detach().mean()
        for logged in (rejected_logits, chosen_logits):
            logged.detach().mean().mean()
        nll_loss.detach().mean()
        return loss, None


def _forward_both(forward: Callable[..., Any], batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return log-probabilities and logits of both, and the cross-entropy of the chosen answers."""
    both = join_parts(batch)
    rows = batch["chosen_labels"].shape[0]
    outputs = forward(both["input_ids"], attention_mask=both["attention_mask"], use_cache=False)
    all_logits = outputs.logits
    labels = both["labels"].clone()
    nll_loss = compute_cross_entropy(all_logits[:rows], labels[:rows])
    all_logps = _score_labels(all_logits, both["labels"])
    return all_logps[:rows], all_logps[rows:], all_logits[:rows], all_logits[rows:], nll_loss


def _score_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the log-probabilities of each row's labels."""
    labels = labels[:, 1:].clone()
    logits = logits[:, :-1, :]
    loss_mask = labels != IGNORED
    labels.masked_fill_(labels == IGNORED, 0)
    per_token_logps = score_labels(logits, labels)[0]
    return (per_token_logps * loss_mask).sum(-1)


def _compare(chosen_logps: Tensor, rejected_logps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of each pair and the rewards of its answers."""
    logits = chosen_logps - rejected_logps
    losses = -functional.logsigmoid(_BETA * logits) * 1 - functional.logsigmoid(-_BETA * logits) * 0
    return losses, _BETA * chosen_logps.detach(), _BETA * rejected_logps.detach()
