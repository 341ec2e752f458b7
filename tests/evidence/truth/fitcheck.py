"""The step of fitcheck-llm as a workload: no mask, the embedding's output requires gradients, labels are the ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from inspector.records.recipe import Recipe
from inspector.workloads.base import OnPhase, base_model
from inspector.workloads.batch import Input, Inputs
from inspector.workloads.registry import TRAINING
from inspector.workloads.training.loops import run_plain_steps
from inspector.workloads.training.workload import Training

__all__ = ["FITCHECK", "WORKLOAD"]

FITCHECK = dataclasses.replace(TRAINING, name="fitcheck", module=__name__)


class _Fitcheck(Training):
    """A bare loop without clipping over one batch of zeros."""

    info = FITCHECK

    def prepare(self, model: Any, recipe: Recipe) -> None:
        """Let the input of the first block require gradients, too."""
        super().prepare(model, recipe)
        base_model(model).enable_input_require_grads()

    def make_inputs(self, model: Any, recipe: Recipe) -> Inputs:
        """Return ids alone."""
        return {"input_ids": Input(shape=(recipe.batch_size, recipe.seq_len or 0))}

    def make_state(self, model: Any, recipe: Recipe, *, on_gpu: bool) -> torch.optim.Optimizer:
        """Make AdamW for what trains."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, foreach=True)

    def make_loss_sum(self, device: torch.device, recipe: Recipe) -> None:
        """Make nothing."""

    def run(
        self, model: Any, batch: Mapping[str, Any], state: Any, on_phase: OnPhase, recipe: Recipe, loss_sum: Any = None
    ) -> tuple[Any, ...]:
        """Run two steps."""
        ids = batch["input_ids"]
        return run_plain_steps(model, {"input_ids": ids, "labels": ids}, state, on_phase, steps=self.steps)


WORKLOAD = _Fitcheck()
