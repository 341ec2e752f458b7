"""One pass without gradients: what a scoring or embedding job takes for each batch.

The loop is the usual one: `with torch.no_grad(): outputs = model(**batch)` for one batch after the other, so that
the outputs of a pass live until the next one has made its own. The model is in evaluation mode. Without labels there is
no loss; a model without a head returns its last hidden states, one with a head its logits for every position.

Not covered: what is done with the outputs, and generation, which fills a cache token by token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from inspector.hardware.platform import Platform
from inspector.model.build import BuiltModel
from inspector.records.recipe import Recipe
from inspector.records.tape import Phase, WorkloadInfo
from inspector.workloads.attention import settle_attention, settle_implementation
from inspector.workloads.base import OnPhase, RunFacts, base_model
from inspector.workloads.batch import find_media, make_batch_inputs, make_inputs_without_labels
from inspector.workloads.inputs import Inputs
from inspector.workloads.kernels.scans import check_kernels
from inspector.workloads.limits import bound_sizes, lengthen_rows
from inspector.workloads.media.rows import Media
from inspector.workloads.notices import describe_inputs, find_notices
from inspector.workloads.precision import MixedPrecision
from inspector.workloads.registry import FORWARD
from inspector.workloads.unaccounted import find_unaccounted

__all__ = ["WORKLOAD"]


class _Forward:
    """Two passes over two batches."""

    info: WorkloadInfo = FORWARD
    steps = 2

    def resolve(self, model: Any, recipe: Recipe) -> Recipe:
        """Return the recipe with the attention that the model has and the sizes that it can take."""
        check_kernels(base_model(model), recipe)
        recipe = lengthen_rows(model, settle_attention(model, recipe), self.find_media)
        return bound_sizes(model, recipe, self.make_inputs)

    def check(self, model: Any, recipe: Recipe) -> None:
        """Refuse nothing."""

    def describe(self, model: Any, asked: Recipe, recipe: Recipe, platform: Platform) -> RunFacts:
        """Return the batch, and what is not counted."""
        inputs, media = self.make_inputs(model, recipe), self.find_media(model, recipe)
        return RunFacts(
            inputs=describe_inputs(inputs),
            shape=None,
            not_accounted=find_unaccounted(model, recipe, platform, inputs),
            notices=tuple(find_notices(model, asked, recipe, inputs, media)),
            media=None if media is None else media.describe(),
        )

    def prepare(self, model: Any, recipe: Recipe) -> None:
        """Set the model up for evaluation."""
        base = base_model(model)
        model.eval()
        base.config.use_cache = bool(recipe.use_cache)
        settle_implementation(base, recipe)

    def find_companions(self, model: Any) -> Mapping[str, Any]:
        """Return none."""
        return {}

    def make_inputs(self, model: Any, recipe: Recipe) -> Inputs:
        """Return a batch as a tokenizer or an image processor makes it: no labels."""
        base = base_model(model)
        if find_media(base, recipe) is None:
            return make_inputs_without_labels(base, recipe)
        return {name: item for name, item in make_batch_inputs(base, recipe).items() if name != "labels"}

    def find_media(self, model: Any, recipe: Recipe) -> Media | None:
        """Return the images or the sound of the batch."""
        return find_media(base_model(model), recipe)

    def make_state(self, model: Any, recipe: Recipe, *, on_gpu: bool) -> None:
        """Keep nothing beside the model."""

    def list_state(self, state: None) -> Iterable[Tensor]:
        """Return nothing."""
        return ()

    def make_loss_sum(self, device: torch.device, recipe: Recipe) -> None:
        """Make nothing."""

    def run(
        self, model: Any, batch: Mapping[str, Any], state: None, on_phase: OnPhase, recipe: Recipe, loss_sum: Any = None
    ) -> tuple[Any, ...]:
        """Run the passes; the last outputs are still held."""
        device = next(item.device for item in batch.values() if isinstance(item, Tensor))
        precision = MixedPrecision(recipe.mixed_precision, device)
        outputs = None
        for step in range(1, self.steps + 1):
            on_phase(Phase.FORWARD, step)
            with torch.no_grad(), precision.autocast():
                outputs = model(**batch)
        return (outputs,)

    def explain_stop(self, model: BuiltModel, recipe: Recipe, error: Exception) -> str:
        """Return nothing to add."""
        return ""


WORKLOAD = _Forward()
