"""How a step comes by its loss: what the loops call the model by, and what they make of its outputs.

The loops know one seam. Which loss runs is a property of the model: its own where it takes labels, in-batch negatives
for a bare encoder.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from inspector.model.diffusion.denoiser import Denoiser
from inspector.workloads.base import base_model
from inspector.workloads.batch import is_bare_encoder
from inspector.workloads.diffusion.flow import find_flow_loss
from inspector.workloads.diffusion.loss import DenoisingLoss
from inspector.workloads.training.contrastive import InBatchNegatives

__all__ = ["Loss", "ModelLoss", "find_loss", "shifts_labels"]


class Loss(Protocol):
    """How the loss of a micro-batch is computed.

    `of_a_batch` says what the loss makes of the other rows, so that another batch size is another loss; None where each
    row has a loss of its own.
    """

    of_a_batch: ClassVar[str | None]

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Return what a loop calls as the model; mixed precision is put around it."""

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss of a micro-batch, and what a bare loop holds of it until the step is over.

        `count` is the number of labels in all micro-batches, as the keyword that the model takes it by, or nothing.
        """

    def counts_labels(self, model: nn.Module, batch: Mapping[str, Any]) -> bool:
        """Return whether the loss is a sum divided by a count, of labels where there are any; else it is a mean."""


class ModelLoss:
    """The loss that the model returns for labels."""

    of_a_batch: ClassVar[str | None] = None

    def build_forward(self, model: nn.Module) -> Callable[..., Any]:
        """Return the model."""
        return model

    def compute_loss(
        self, forward: Callable[..., Any], batch: Mapping[str, Any], count: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the loss and the outputs."""
        outputs = forward(**batch, **count)
        return outputs["loss"], outputs

    def counts_labels(self, model: nn.Module, batch: Mapping[str, Any]) -> bool:
        """Return whether there are labels and the model takes their number."""
        return isinstance(batch.get("labels"), Tensor) and _takes_count(base_model(model))


def find_loss(model: nn.Module) -> Loss:
    """Return the loss that a model is trained with."""
    base = base_model(model)
    if isinstance(base, Denoiser):
        return find_flow_loss(base) or DenoisingLoss()
    return InBatchNegatives(getattr(base.config, "sentence_pooling", None)) if is_bare_encoder(base) else ModelLoss()


def shifts_labels(base: Any) -> bool:
    """Tell whether the loss compares each position with the next label, so that the first one does not count."""
    shifts = LOSS_MAPPING.get(getattr(base, "loss_type", None) or "") is ForCausalLMLoss
    return shifts and not getattr(base.config, "is_encoder_decoder", False)


def _takes_count(base: Any) -> bool:
    """Tell whether the Trainer hands a model the number of labels: it says so, or takes any keyword."""
    if hasattr(base, "accepts_loss_kwargs"):
        return bool(base.accepts_loss_kwargs)
    parameters = inspect.signature(base.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
