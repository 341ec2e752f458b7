"""Whether the sequences of a batch have to do with each other, so that a smaller batch is another training.

They do where a loss compares them (`Loss.of_a_batch`), where a model pairs texts with images (CLIP's loss is of the
whole batch), and where a layer normalises by the statistics of the batch. Accumulated micro-batches are then not the
batch that they add up to.

Not covered: auxiliary losses that balance experts over the tokens of a micro-batch, which are small beside the loss.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from inspector.records.recipe import Recipe
from inspector.workloads.batch import pairs_texts_with_images
from inspector.workloads.training.lm_losses.registry import make_loss
from inspector.workloads.training.losses import find_loss
from inspector.workloads.training.stages.run import find_stage_loss

__all__ = ["find_dependence"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def find_dependence(base: Any, recipe: Recipe) -> str | None:
    """Return what a smaller batch is beside smaller, in a few words; None where it is the same training."""
    if recipe.stage is not None:
        of_a_batch = find_stage_loss(recipe).of_a_batch
    else:
        of_a_batch = (make_loss(recipe) or find_loss(base)).of_a_batch
    if of_a_batch is not None:
        return of_a_batch
    if pairs_texts_with_images(base):
        return "another loss: fewer pairs to tell apart"
    if any(isinstance(module, _BATCH_NORMS) for module in base.modules()):
        return "other statistics in its batch norms"
    return None
