"""The seam: what a kind of run has to say so that it can be traced on meta, measured on a GPU, searched and planned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from inspector.errors import NotTraceableError
from inspector.hardware.platform import Platform
from inspector.model.build import BuiltModel
from inspector.records.recipe import Recipe
from inspector.records.run import RunFacts
from inspector.records.tape import Phase, WorkloadInfo
from inspector.workloads.inputs import Inputs
from inspector.workloads.media.rows import Media

__all__ = ["NotTraceableError", "OnPhase", "RunFacts", "Workload", "base_model"]

# Is told that a phase of a step begins.
OnPhase = Callable[[Phase, int], None]


class Workload(Protocol):
    """One kind of run. `model` is a transformers model or a PeftModel, on meta or with data; `recipe` a resolved one.

    `steps` are as many as it takes until a further one changes nothing.
    """

    info: WorkloadInfo
    steps: int

    def resolve(self, model: Any, recipe: Recipe) -> Recipe:
        """Return the recipe as it runs on `model`: what depends on the model filled in.

        Raises UsageError where the recipe makes no sense, NotTraceableError where no batch is known for the model.
        """

    def check(self, model: Any, recipe: Recipe) -> None:
        """Raise NotTraceableError where the run cannot be traced, before anything is done."""

    def describe(self, model: Any, asked: Recipe, recipe: Recipe, platform: Platform) -> RunFacts:
        """Return what to say of running `recipe` on a platform, which is `asked` as it runs on `model`."""

    def prepare(self, model: Any, recipe: Recipe) -> None:
        """Set the model up for the run."""

    def find_companions(self, model: Any) -> Mapping[str, Any]:
        """Return the further models that a prepared `model` runs with, by name; they are loaded behind it."""

    def make_inputs(self, model: Any, recipe: Recipe) -> Inputs:
        """Return what one batch consists of."""

    def find_media(self, model: Any, recipe: Recipe) -> Media | None:
        """Return the images or the sound in the batch, None where it has none."""

    def make_state(self, model: Any, recipe: Recipe, *, on_gpu: bool) -> Any:
        """Make what the run keeps beside the model, such as an optimizer; None where it keeps nothing.

        `on_gpu` asks for the real classes of packages that a trace does without.
        """

    def list_state(self, state: Any) -> Iterable[Tensor]:
        """Return the tensors that the state holds before the first step."""

    def make_loss_sum(self, device: torch.device, recipe: Recipe) -> Tensor | None:
        """Make the sum that a loop adds losses to, before its first batch comes; None where it keeps none."""

    def run(
        self,
        model: Any,
        batch: MutableMapping[str, Any],
        state: Any,
        on_phase: OnPhase,
        recipe: Recipe,
        loss_sum: Tensor | None = None,
    ) -> tuple[Any, ...]:
        """Run the steps, on tensors with or without data; return what is still held when the last one is over.

        A loop that is brought further batches takes this one over, and leaves it empty. `loss_sum` is what
        `make_loss_sum` made.
        """

    def explain_stop(self, model: BuiltModel, recipe: Recipe, error: Exception) -> str:
        """Return what to do about an error that stopped the run, to follow its message, or raise a better one."""


def base_model(model: Any) -> Any:
    """Return the transformers model itself, without the wrappers of PEFT, DDP, FSDP1 and DeepSpeed."""
    # FSDP1 and DeepSpeed by their names: neither is loaded where one card is traced.
    is_named = type(model).__name__ in ("FullyShardedDataParallel", "DeepSpeedEngine")
    model = model.module if is_named or isinstance(model, DistributedDataParallel) else model
    return model.get_base_model() if hasattr(model, "get_base_model") else model
