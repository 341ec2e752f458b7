"""What the losses of the stages have in common: the model is called as it is, and the loss is a mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from inspector.records.stages import Reference
from inspector.workloads.training.stages.passes import Passes

__all__ = ["StageLoss"]


class StageLoss:
    """A loss that runs passes beside the policy's, on a reference that may be none."""

    def __init__(self, passes: Passes, reference: Reference) -> None:
        self._passes = passes
        self._reference = reference

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Return the model."""
        return model

    def counts_labels(self, model: nn.Module, batch: Mapping[str, Any]) -> bool:
        """Return that the loss is a mean."""
        return False
