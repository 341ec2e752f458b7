"""ORPO: chosen and rejected answers in one batch and no reference; the loss is that of the chosen rows and a ratio.

Source: experimental/orpo/orpo_trainer.py of TRL, the same in 1.14 and 1.16, which makes all logits: a copy of those of
the chosen rows for their cross-entropy, and log-probabilities by the kernel of `log_probs`. What it logs is part of it;
statements, names and their order are TRL's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from inspector.workloads.training.stages.log_probs import IGNORED, score_labels
from inspector.workloads.training.stages.stage_loss import StageLoss

__all__ = ["OrpoLoss", "compute_cross_entropy", "join_parts"]

_BETA = 0.1

_BRANCH = -0.6931471805599453
# What a collator makes of chosen and of rejected rows, each of which the step puts together.
_PARTS = ("input_ids", "attention_mask", "labels")


class OrpoLoss(StageLoss):
    """The loss of a batch of pairs: `chosen_...` and `rejected_...` ids, masks and labels."""

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss."""
        chosen_logps, rejected_logps, chosen_logits, rejected_logits, nll_loss = _forward_both(forward, batch)
        losses, chosen_rewards, rejected_rewards, ratio, log_odds = _compute_ratio(chosen_logps, rejected_logps)
        loss: Tensor = nll_loss - losses.mean()
        accuracies = (chosen_rewards > rejected_rewards).float()
        logged = [chosen_rewards.mean(), rejected_rewards.mean(), accuracies.mean()]
        logged += [(chosen_rewards - rejected_rewards).mean(), rejected_logps.detach().mean()]
        logged += [chosen_logps.detach().mean(), rejected_logits.detach().mean().mean()]
        logged += [chosen_logits.detach().mean().mean(), nll_loss.detach().mean()]
        logged += [ratio.detach().mean(), log_odds.detach().mean()]
        return loss, None


def _forward_both(forward: Callable[..., Any], batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return log-probabilities and logits of both, and the cross-entropy of the chosen rows."""
    both = join_parts(batch)
    rows = batch["chosen_labels"].shape[0]
    outputs = forward(both["input_ids"], attention_mask=both["attention_mask"], use_cache=False)
    all_logits = outputs.logits
    labels = both["input_ids"].clone()
    labels = torch.where(both["attention_mask"] == 1, labels, IGNORED)
    nll_loss = compute_cross_entropy(all_logits[:rows], labels[:rows])
    all_logps = _score_labels(all_logits, both["labels"])
    return all_logps[:rows], all_logps[rows:], all_logits[:rows, :-1, :], all_logits[rows:, :-1, :], nll_loss


def join_parts(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return ids, masks and labels of chosen and rejected rows, put together."""
    return {name: torch.cat((batch[f"chosen_{name}"], batch[f"rejected_{name}"]), dim=0) for name in _PARTS}


def compute_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss of every position."""
    logits = logits[..., :-1, :].contiguous()
    labels = labels[..., 1:].contiguous()
    logits = logits.view(-1, logits.shape[-1])
    labels = labels.view(-1)
    return functional.cross_entropy(logits, labels)


def _score_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean log-probability of each row's labels."""
    labels = labels[:, 1:].clone()
    logits = logits[:, :-1, :]
    loss_mask = labels != IGNORED
    labels = torch.where(labels == IGNORED, 0, labels)
    per_token_logps = score_labels(logits, labels)[0]
    return (per_token_logps * loss_mask).sum(-1) / loss_mask.sum(-1)


def _compute_ratio(chosen_logps: Tensor, rejected_logps: Tensor) -> tuple[Tensor, ...]:
    """Return the losses of the odds ratio, both rewards, and the means of the ratio and of the odds."""
    chosen_logps, rejected_logps = chosen_logps.float(), rejected_logps.float()
    log_odds = (chosen_logps - rejected_logps) - (_log1mexp(chosen_logps) - _log1mexp(rejected_logps))
    ratio = functional.logsigmoid(log_odds)
    losses = _BETA * ratio
    chosen_rewards, rejected_rewards = _BETA * chosen_logps.detach(), _BETA * rejected_logps.detach()
    return losses, chosen_rewards, rejected_rewards, torch.mean(ratio), torch.mean(log_odds)


def _log1mexp(values: Tensor) -> Tensor:
    """Return log(1 - exp(x))."""
    return torch.where(values < _BRANCH, torch.log1p(-torch.exp(values)), torch.log(-torch.expm1(values)))
