"""Reward training: chosen and rejected rows through a head of one score, in the place of logits.

Source: trainer/reward_trainer.py of TRL, `compute_loss`, the same in 1.14 and 1.16. What it logs is part of it;
statements, names and their order are TRL's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from inspector.workloads.training.stages.stage_loss import StageLoss

__all__ = ["RewardLoss"]


class RewardLoss(StageLoss):
    """The loss of a batch of pairs: `input_ids` and `attention_mask`, chosen rows first."""

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss."""
        outputs = forward(**batch, use_cache=False)
        rewards_chosen, rewards_rejected = torch.chunk(outputs.logits.squeeze(-1), chunks=2)
        loss: Tensor = -functional.logsigmoid(rewards_chosen - rewards_rejected).mean()
        # What is logged.
        _ = batch["attention_mask"].sum().sum()
        with torch.no_grad():
            all_rewards = outputs.logits
            _ = all_rewards.min(), all_rewards.mean(), all_rewards.max()
            _ = (rewards_chosen > rewards_rejected).float().mean().mean()
            _ = (rewards_chosen - rewards_rejected).mean().mean()
        return loss, None
