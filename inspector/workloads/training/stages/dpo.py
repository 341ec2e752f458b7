"""DPO: chosen and rejected answers in one batch, a pass of the policy, and one of the reference without gradients.

TRL's own loss is that of 1.13 and 1.14, which make all logits (trainer/dpo_trainer.py, `_compute_loss` with
`loss_type="sigmoid"`). What it logs is part of it, and what its names hold, the outputs of both passes among them,
lives until the loss is there: statements, names and their order are TRL's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from inspector.records.steps.stages import Reference
from inspector.workloads.training.lm_losses.heads import log_ratio, read_on_host
from inspector.workloads.training.stages.log_probs import IGNORED, score_labels
from inspector.workloads.training.stages.stage_loss import StageLoss

__all__ = ["DpoLoss", "FusedDpoLoss"]

_BETA = 0.1


class DpoLoss(StageLoss):
    """The loss of a batch of pairs: `input_ids`, `attention_mask` and `completion_mask`, chosen rows first."""

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss."""
        model_kwargs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
        shift_labels, shift_mask = batch["input_ids"][..., 1:], batch["completion_mask"][..., 1:]
        outputs = forward(**model_kwargs)
        shift_logits = outputs.logits[..., :-1, :]
        per_token_logps, entropies = score_labels(shift_logits, shift_labels, shift_mask)
        logps = per_token_logps.sum(dim=1)
        chosen_logps, rejected_logps = logps.chunk(2, dim=0)
        if self._reference is Reference.NONE:
            ref_chosen_logps, ref_rejected_logps = batch["ref_chosen_logps"], batch["ref_rejected_logps"]
        else:
            with self._passes.run_reference() as reference:
                ref_outputs = reference(**model_kwargs)
            ref_shift_logits = ref_outputs.logits[..., :-1, :]
            ref_per_token_logps = score_labels(ref_shift_logits, shift_labels, shift_mask)[0]
            ref_logps = ref_per_token_logps.sum(dim=1)
            ref_chosen_logps, ref_rejected_logps = ref_logps.chunk(2, dim=0)
        chosen_logratios = chosen_logps - ref_chosen_logps
        rejected_logratios = rejected_logps - ref_rejected_logps
        delta_score = chosen_logratios - rejected_logratios
        per_sequence_loss = -functional.logsigmoid(_BETA * delta_score)
        loss: Tensor = 0.0 + per_sequence_loss.mean() * 1.0
        # What is logged.
        entropy_sum = (entropies * shift_mask).sum()
        total_tokens = shift_mask.sum()
        entropy_sum, total_tokens = entropy_sum.sum(), total_tokens.sum()
        _ = total_tokens > 0, entropy_sum / total_tokens
        _ = batch["attention_mask"].sum().sum()
        chosen_logits, rejected_logits = shift_logits.detach().chunk(2, dim=0)
        chosen_mask, rejected_mask = shift_mask.chunk(2, dim=0)
        total_chosen_logits = chosen_logits[chosen_mask.bool()].mean(-1).sum()
        total_chosen_tokens = chosen_mask.sum()
        total_rejected_logits = rejected_logits[rejected_mask.bool()].mean(-1).sum()
        total_rejected_tokens = rejected_mask.sum()
        _ = total_chosen_logits.sum(), total_chosen_tokens.sum()
        _ = total_rejected_logits.sum(), total_rejected_tokens.sum()
        predictions = chosen_logits.argmax(dim=-1)
        chosen_mask = shift_mask[: len(shift_mask) // 2].bool()
        chosen_labels = shift_labels[: len(shift_labels) // 2]
        correct_predictions = (predictions == chosen_labels) & chosen_mask
        total_tokens = chosen_mask.sum()
        correct_tokens = correct_predictions.sum()
        total_sum = total_tokens.sum()
        _ = total_sum > 0, correct_tokens.sum() / total_sum
        _log_rewards(chosen_logratios, rejected_logratios)
        _ = chosen_logps.mean(), rejected_logps.mean()
        return loss, None


class FusedDpoLoss(StageLoss):
    """The same with the head of TRL 1.15 and newer, which makes no logits."""

    outputs = ("entropy", "mean_logits", "is_top1")

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss."""
        model_kwargs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
        completion_mask = batch["completion_mask"]
        shift_mask = completion_mask[..., 1:]
        labels = batch["input_ids"].masked_fill(completion_mask == 0, IGNORED)
        outputs = forward(**model_kwargs, labels=labels)
        # All of it: prompt learning would put virtual tokens before, and the slice takes a gradient of its own.
        seq_len = shift_mask.size(1)
        per_token_logps = outputs["log_probs"][:, -seq_len:]
        logps = per_token_logps.sum(dim=1)
        chosen_logps, rejected_logps = logps.chunk(2, dim=0)
        if self._reference is Reference.NONE:
            ref_chosen_logps, ref_rejected_logps = batch["ref_chosen_logps"], batch["ref_rejected_logps"]
        else:
            with self._passes.run_reference() as reference:
                ref_outputs = reference(**model_kwargs, labels=labels)
            ref_logps = ref_outputs["log_probs"].sum(dim=1)
            ref_chosen_logps, ref_rejected_logps = ref_logps.chunk(2, dim=0)
        chosen_logratios = chosen_logps - ref_chosen_logps
        rejected_logratios = rejected_logps - ref_rejected_logps
        delta_score = chosen_logratios - rejected_logratios
        per_sequence_loss = -functional.logsigmoid(_BETA * delta_score)
        loss: Tensor = 0.0 + per_sequence_loss.mean() * 1.0
        # What is logged.
        entropies = outputs["entropy"].detach()
        entropy_sum = (entropies * shift_mask).sum()
        total_tokens = shift_mask.sum()
        entropy_sum, total_tokens = entropy_sum.sum(), total_tokens.sum()
        log_ratio(entropy_sum, total_tokens)
        read_on_host(batch["attention_mask"].sum().sum())
        chosen_mean_logits, rejected_mean_logits = outputs["mean_logits"].chunk(2, dim=0)
        chosen_mask, rejected_mask = shift_mask.chunk(2, dim=0)
        total_chosen_logits = chosen_mean_logits[chosen_mask.bool()].sum()
        total_chosen_tokens = chosen_mask.sum()
        total_rejected_logits = rejected_mean_logits[rejected_mask.bool()].sum()
        total_rejected_tokens = rejected_mask.sum()
        for gathered in (total_chosen_logits, total_chosen_tokens, total_rejected_logits, total_rejected_tokens):
            read_on_host(gathered.sum())
        chosen_is_top1, _ = outputs["is_top1"].chunk(2, dim=0)
        correct_predictions = chosen_is_top1 & chosen_mask.bool()
        total_tokens = chosen_mask.sum()
        correct_tokens = correct_predictions.sum()
        total_sum = total_tokens.sum()
        log_ratio(correct_tokens.sum(), total_sum)
        _log_rewards(chosen_logratios, rejected_logratios)
        read_on_host(chosen_logps.mean())
        read_on_host(rejected_logps.mean())
        return loss, None


def _log_rewards(chosen_logratios: Tensor, rejected_logratios: Tensor) -> None:
    """Compute the rewards and how they compare, a number a pair."""
    chosen_rewards = _BETA * chosen_logratios.detach()
    rejected_rewards = _BETA * rejected_logratios.detach()
    _ = chosen_rewards.mean(), rejected_rewards.mean()
    _ = (chosen_rewards > rejected_rewards).float().mean()
    _ = (chosen_rewards - rejected_rewards).mean()
