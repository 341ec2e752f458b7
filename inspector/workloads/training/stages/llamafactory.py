"""DPO, KTO and reward training as LLaMA-Factory runs them: float32 logits of all rows, whole, in all passes.

Source: train/{dpo,kto,rm}/trainer.py and train/trainer_utils.py of 0.9.5 (`concatenated_forward`, `get_batch_logps`),
and `dpo_loss` and `kto_loss` of TRL 0.24, the newest that it takes. The logits of the policy live until the loss is
there, for what is logged of them, in KTO as copies for the answers of either kind, and so do those of the reference
while it runs. Reward training scores each token by a head of values (`model.changes.value_head`), and since its
collator sends labels the model makes a loss of its logits, too, which nothing is done with. Statements and names are in
its order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from inspector.model.changes.value_head import score_tokens
from inspector.workloads.training.stages.log_probs import IGNORED
from inspector.workloads.training.stages.stage_loss import StageLoss

__all__ = ["LlamaFactoryDpoLoss", "LlamaFactoryKtoLoss", "LlamaFactoryRewardLoss"]

_BETA = 0.1


class LlamaFactoryDpoLoss(StageLoss):
    """The loss of a batch of pairs: `input_ids`, `attention_mask` and `labels`, chosen rows first."""

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss."""
        policy = _forward_both(forward, batch)
        with self._passes.run_reference() as reference:
            of_reference = _forward_both(reference, batch)
            reference_logps = of_reference["chosen_logps"], of_reference["rejected_logps"]
            del of_reference
        chosen_logps, rejected_logps = policy["chosen_logps"], policy["rejected_logps"]
        losses, chosen_rewards, rejected_rewards = _compare(chosen_logps, rejected_logps, *reference_logps)
        _ = -policy["chosen_logps_avg"]
        for logged in (chosen_rewards, rejected_rewards, (chosen_rewards > rejected_rewards).float()):
            logged.mean()
        for logged in (chosen_rewards - rejected_rewards, chosen_logps, rejected_logps):
            logged.mean()
        for name in ("chosen_logits", "rejected_logits"):
            policy[name].mean()
        return losses.mean(), None


def _forward_both(forward: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the log-probabilities of chosen and rejected rows, and the logits that they come from."""
    batch = {name: item.detach().clone() for name, item in given.items()}
    labels = batch.pop("labels")
    all_logits: Tensor = forward(**batch, return_dict=True, use_cache=False).logits.to(torch.float32)
    all_logps, valid_length = _score_labels(all_logits, labels)
    rows = batch["input_ids"].size(0) // 2
    chosen_logps, rejected_logps = all_logps.split(rows, dim=0)
    chosen_logits, rejected_logits = all_logits.split(rows, dim=0)
    chosen_length, _ = valid_length.split(rows, dim=0)
    return {
        "chosen_logps": chosen_logps,
        "rejected_logps": rejected_logps,
        "chosen_logits": chosen_logits,
        "rejected_logits": rejected_logits,
        "chosen_logps_avg": chosen_logps / chosen_length,
    }


def _score_labels(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the log-probabilities of each row's labels, and their number."""
    labels = labels[:, 1:].clone()
    logits = logits[:, :-1, :]
    loss_mask = labels != IGNORED
    labels.masked_fill_(labels == IGNORED, 0)
    per_token_logps = torch.gather(logits.log_softmax(-1), dim=2, index=labels.unsqueeze(2)).squeeze(2)
    valid_length = loss_mask.sum(-1)
    return (per_token_logps * loss_mask).sum(-1), valid_length


def _compare(
    chosen_logps: Tensor, rejected_logps: Tensor, reference_chosen_logps: Tensor, reference_rejected_logps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of each pair and the rewards of its answers."""
    logits = (chosen_logps - rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    losses = -functional.logsigmoid(_BETA * logits) * 1 - functional.logsigmoid(-_BETA * logits) * 0
    chosen_rewards = _BETA * (chosen_logps - reference_chosen_logps).detach()
    rejected_rewards = _BETA * (rejected_logps - reference_rejected_logps).detach()
    return losses, chosen_rewards, rejected_rewards


class LlamaFactoryKtoLoss(StageLoss):
    """The loss of a batch of answers with `labels`: `kl_...` are the other rows, `kto_tags` the wanted answers."""

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss."""
        chosen_logps, rejected_logps, chosen_logits, rejected_logits, kl_logps, _avg = _score_answers(forward, batch)
        with self._passes.run_reference() as reference:
            reference_chosen_logps, reference_rejected_logps, _, _, reference_kl_logps, _ = _score_answers(
                reference, batch
            )
        kl = (kl_logps - reference_kl_logps).mean().detach()
        kl = kl.mean().clamp(min=0)
        losses, chosen_rewards, rejected_rewards = _judge_answers(
            chosen_logps - reference_chosen_logps, rejected_logps - reference_rejected_logps, kl
        )
        loss: Tensor = losses.nanmean()
        for logged in (chosen_rewards, chosen_logps, chosen_logits, rejected_rewards, rejected_logps, rejected_logits):
            logged.nansum()
        return loss, None


def _judge_answers(chosen_logratios: Tensor, rejected_logratios: Tensor, kl: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of each answer and the rewards of either kind."""
    chosen_losses = 1 - functional.sigmoid(_BETA * (chosen_logratios - kl))
    chosen_rewards = _BETA * chosen_logratios.detach()
    rejected_losses = 1 - functional.sigmoid(_BETA * (kl - rejected_logratios))
    rejected_rewards = _BETA * rejected_logratios.detach()
    return torch.cat((1.0 * chosen_losses, 1.0 * rejected_losses), 0), chosen_rewards, rejected_rewards


def _score_answers(forward: Callable[..., Any], batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return the log-probabilities of wanted and other answers, their logits, and those of the other rows."""
    target_logits, target_logps, target_logps_avg = _score_rows(forward, batch, "")
    with torch.no_grad():
        _, kl_logps, _ = _score_rows(forward, batch, "kl_")
    chosen_logits = target_logits[batch["kto_tags"]]
    chosen_logps = target_logps[batch["kto_tags"]]
    rejected_logits = target_logits[~batch["kto_tags"]]
    rejected_logps = target_logps[~batch["kto_tags"]]
    chosen_logps_avg = target_logps_avg[batch["kto_tags"]]
    return chosen_logps, rejected_logps, chosen_logits, rejected_logits, kl_logps, chosen_logps_avg


def _score_rows(forward: Callable[..., Any], given: Mapping[str, Any], prefix: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits of rows, and the log-probability of each row's labels, summed up and on average."""
    batch = {name: item.detach().clone() for name, item in given.items()}
    model_inputs = {name: batch[f"{prefix}{name}"] for name in ("input_ids", "attention_mask")}
    logits: Tensor = forward(**model_inputs, return_dict=True, use_cache=False).logits.to(torch.float32)
    logps, valid_length = _score_labels(logits, batch[f"{prefix}labels"])
    return logits, logps, logps / valid_length


class LlamaFactoryRewardLoss(StageLoss):
    """The loss of a batch of pairs: `input_ids`, `attention_mask` and `labels`, chosen rows first."""

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Return the model with its head of values."""
        return functools.partial(score_tokens, model)

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss."""
        _, _, values = forward(**batch, return_dict=True, use_cache=False)
        batch_size = batch["input_ids"].size(0) // 2
        chosen_masks, rejected_masks = torch.split(batch["attention_mask"], batch_size, dim=0)
        chosen_rewards, rejected_rewards = torch.split(values, batch_size, dim=0)
        chosen_scores = chosen_rewards.gather(dim=-1, index=(chosen_masks.sum(dim=-1, keepdim=True) - 1))
        rejected_scores = rejected_rewards.gather(dim=-1, index=(rejected_masks.sum(dim=-1, keepdim=True) - 1))
        chosen_scores, rejected_scores = chosen_scores.squeeze(), rejected_scores.squeeze()
        return -functional.logsigmoid(chosen_scores.float() - rejected_scores.float()).mean(), None
