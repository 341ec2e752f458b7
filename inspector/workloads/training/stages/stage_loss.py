"""What the losses of the stages have in common: the model is called as it is, and the loss is a mean."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from inspector.records.steps.stages import Reference
from inspector.workloads.training.stages.passes import Passes

__all__ = ["StageLoss"]


class StageLoss(abc.ABC):
    """A loss that runs passes beside the policy's, on a reference that may be none.

    `outputs` is what it reads of each position beside the log-probability where the head is fused.
    """

    of_a_batch: ClassVar[str | None] = None
    outputs: tuple[str, ...] = ()

    def __init__(self, passes: Passes, reference: Reference) -> None:
        self._passes = passes
        self._reference = reference

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Return the model."""
        return model

    def counts_labels(self, model: nn.Module, batch: Mapping[str, Any]) -> bool:
        """Return that the loss is a mean."""
        return False

    @abc.abstractmethod
    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss of a micro-batch; nothing is left of the passes then."""
