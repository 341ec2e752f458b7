"""KTO: single answers with a verdict each, and beside them other rows whose divergence from the reference is measured.

Four passes make a loss: the policy on the other rows, without gradients, and on its own; the reference on both. That is
TRL's trainer of 1.13 and 1.14, which makes all logits (trainer/kto_trainer.py, `_compute_loss` with `loss_type="kto"`).
What it logs is part of it: logits are copied for the answers of either kind. Statements, names and their order are
TRL's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from inspector.records.steps.stages import Reference
from inspector.workloads.training.stages.log_probs import IGNORED, score_labels
from inspector.workloads.training.stages.stage_loss import StageLoss

__all__ = ["FusedKtoLoss", "KtoLoss"]

_BETA = 0.1
_OF_A_BATCH = "another loss: its KL is estimated from fewer sequences"


class KtoLoss(StageLoss):
    """The loss of a batch of answers: `KL_...` are the other rows, `label` says which answers are wanted."""

    of_a_batch: ClassVar[str | None] = _OF_A_BATCH

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss."""
        labels = batch["label"]
        num_chosen = labels.sum()
        num_rejected = len(labels) - num_chosen
        with self._passes.run_beside():
            kl_logps = _score_other_rows(forward, batch)
        model_kwargs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
        shift_labels, shift_mask = batch["input_ids"][:, 1:], batch["completion_mask"][:, 1:]
        outputs = forward(**model_kwargs)
        shift_logits = outputs.logits[:, :-1, :]
        per_token_logps, per_token_entropy = score_labels(shift_logits, shift_labels, shift_mask)
        completion_logps = per_token_logps.sum(-1)
        chosen_idx = torch.nonzero(labels).view(-1)
        rejected_idx = torch.nonzero(~labels).view(-1)
        chosen_logps = completion_logps.index_select(0, chosen_idx)
        rejected_logps = completion_logps.index_select(0, rejected_idx)
        if self._reference is Reference.NONE:
            ref_completion_logps, ref_kl_logps = batch["ref_logps"], batch["ref_KL_logps"]
        else:
            with self._passes.run_reference() as reference:
                ref_kl_logps = _score_other_rows(reference, batch)
                ref_outputs = reference(**model_kwargs)
            ref_per_token_logps = score_labels(ref_outputs.logits[:, :-1, :], shift_labels, shift_mask)[0]
            ref_completion_logps = ref_per_token_logps.sum(-1)
        ref_chosen_logps = ref_completion_logps.index_select(0, chosen_idx)
        ref_rejected_logps = ref_completion_logps.index_select(0, rejected_idx)
        kl = (kl_logps - ref_kl_logps).mean().detach()
        kl = kl.mean().clamp(min=0)
        chosen_logratios = chosen_logps - ref_chosen_logps
        chosen_losses = 1 - functional.sigmoid(_BETA * (chosen_logratios - kl))
        chosen_rewards = _BETA * chosen_logratios.detach()
        rejected_logratios = rejected_logps - ref_rejected_logps
        rejected_losses = 1 - functional.sigmoid(_BETA * (kl - rejected_logratios))
        rejected_rewards = _BETA * rejected_logratios.detach()
        losses = torch.cat((1.0 * chosen_losses, 1.0 * rejected_losses), 0)
        # What is logged.
        entropy_sum, total_tokens = (per_token_entropy * shift_mask).sum(), shift_mask.sum()
        entropy_sum, total_tokens = entropy_sum.sum(), total_tokens.sum()
        _ = total_tokens > 0, entropy_sum / total_tokens, batch["attention_mask"].sum().sum()
        chosen_logits = shift_logits.detach().index_select(0, chosen_idx)
        rejected_logits = shift_logits.detach().index_select(0, rejected_idx)
        chosen_mask = shift_mask.index_select(0, chosen_idx)
        rejected_mask = shift_mask.index_select(0, rejected_idx)
        total_chosen_logits = chosen_logits[chosen_mask.bool()].mean(-1).sum()
        total_chosen_tokens = chosen_mask.sum()
        total_rejected_logits = rejected_logits[rejected_mask.bool()].mean(-1).sum()
        total_rejected_tokens = rejected_mask.sum()
        _ = total_chosen_logits.sum(), total_chosen_tokens.sum()
        _ = total_rejected_logits.sum(), total_rejected_tokens.sum()
        _ = num_chosen.sum(), num_rejected.sum()
        for logged in (chosen_rewards, chosen_logps, rejected_rewards, rejected_logps):
            logged.nansum().nansum()
        loss: Tensor = losses.nanmean()
        return loss, None


class FusedKtoLoss(StageLoss):
    """The same with the head of TRL 1.15 and newer, which makes no logits."""

    of_a_batch: ClassVar[str | None] = _OF_A_BATCH
    outputs = ("entropy", "mean_logits")

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss."""
        labels = batch["label"]
        num_chosen = labels.sum()
        num_rejected = len(labels) - num_chosen
        with self._passes.run_beside():
            kl_logps = _score_other_rows_fused(forward, batch)
        model_kwargs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
        completion_labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
        outputs = forward(**model_kwargs, labels=completion_labels)
        # All of it: prompt learning would put virtual tokens before, and the slice takes a gradient of its own.
        seq_len = batch["input_ids"].size(1) - 1
        completion_logps = outputs["log_probs"][:, -seq_len:].sum(-1)
        chosen_idx = torch.nonzero(labels).view(-1)
        rejected_idx = torch.nonzero(~labels).view(-1)
        chosen_logps = completion_logps.index_select(0, chosen_idx)
        rejected_logps = completion_logps.index_select(0, rejected_idx)
        if self._reference is Reference.NONE:
            ref_completion_logps, ref_kl_logps = batch["ref_logps"], batch["ref_KL_logps"]
        else:
            with self._passes.run_reference() as reference:
                ref_kl_logps = _score_other_rows_fused(reference, batch)
                ref_outputs = reference(**model_kwargs, labels=completion_labels)
            ref_completion_logps = ref_outputs["log_probs"].sum(-1)
        ref_chosen_logps = ref_completion_logps.index_select(0, chosen_idx)
        ref_rejected_logps = ref_completion_logps.index_select(0, rejected_idx)
        kl = (kl_logps - ref_kl_logps).mean().detach()
        kl = kl.mean().clamp(min=0)
        chosen_logratios = chosen_logps - ref_chosen_logps
        chosen_losses = 1 - functional.sigmoid(_BETA * (chosen_logratios - kl))
        chosen_rewards = _BETA * chosen_logratios.detach()
        rejected_logratios = rejected_logps - ref_rejected_logps
        rejected_losses = 1 - functional.sigmoid(_BETA * (kl - rejected_logratios))
        rejected_rewards = _BETA * rejected_logratios.detach()
        losses = torch.cat((1.0 * chosen_losses, 1.0 * rejected_losses), 0)
        # What is logged.
        shift_mask = batch["completion_mask"][:, 1:]
        entropy_sum, total_tokens = (outputs["entropy"].detach() * shift_mask).sum(), shift_mask.sum()
        entropy_sum, total_tokens = entropy_sum.sum(), total_tokens.sum()
        _ = total_tokens > 0, entropy_sum / total_tokens, batch["attention_mask"].sum().sum()
        chosen_mean_logits = outputs["mean_logits"].index_select(0, chosen_idx)
        rejected_mean_logits = outputs["mean_logits"].index_select(0, rejected_idx)
        chosen_mask = shift_mask.index_select(0, chosen_idx)
        rejected_mask = shift_mask.index_select(0, rejected_idx)
        total_chosen_logits = chosen_mean_logits[chosen_mask.bool()].sum()
        total_chosen_tokens = chosen_mask.sum()
        total_rejected_logits = rejected_mean_logits[rejected_mask.bool()].sum()
        total_rejected_tokens = rejected_mask.sum()
        _ = total_chosen_logits.sum(), total_chosen_tokens.sum()
        _ = total_rejected_logits.sum(), total_rejected_tokens.sum()
        _ = num_chosen.sum(), num_rejected.sum()
        for logged in (chosen_rewards, chosen_logps, rejected_rewards, rejected_logps):
            logged.nansum().nansum()
        loss: Tensor = losses.nanmean()
        return loss, None


def _score_other_rows(forward: Callable[..., Any], batch: Mapping[str, Any]) -> Tensor:
    """Return the log-probability of each of the other rows, without gradients."""
    with torch.no_grad():
        outputs = forward(input_ids=batch["KL_input_ids"], attention_mask=batch["KL_attention_mask"], use_cache=False)
        logits = outputs.logits
        del outputs
        labels, mask = batch["KL_input_ids"][:, 1:], batch["KL_completion_mask"][:, 1:]
        per_token_logps = score_labels(logits[:, :-1, :], labels, mask)[0]
    return per_token_logps.sum(-1)


def _score_other_rows_fused(forward: Callable[..., Any], batch: Mapping[str, Any]) -> Tensor:
    """Return the same from a fused head."""
    labels = batch["KL_input_ids"].masked_fill(batch["KL_completion_mask"] == 0, IGNORED)
    ids, mask = batch["KL_input_ids"], batch["KL_attention_mask"]
    with torch.no_grad():
        per_token_logps = forward(input_ids=ids, attention_mask=mask, use_cache=False, labels=labels)["log_probs"]
    logps: Tensor = per_token_logps.sum(-1)
    return logps
