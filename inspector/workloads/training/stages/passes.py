"""The passes of a step beside that of the policy: a reference, which is the model without its adapter or a second one.

TRL's order (trainer/dpo_trainer.py, kto_trainer.py, grpo_trainer.py): no gradients, checkpointing off, the adapter
disabled. accelerate prepares a second model as it does the first, so that it runs under autocast too.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from inspector.model.copying import copy_model
from inspector.records.recipe import Recipe
from inspector.records.steps.stages import Reference, Stage
from inspector.records.tape import Phase
from inspector.workloads.base import OnPhase, base_model
from inspector.workloads.precision import MixedPrecision

__all__ = ["Passes", "disable_dropout", "find_reference", "find_second_model", "keep_second_model"]

# Where a model keeps its second one; what stands in `__dict__` is no submodule.
_SECOND = "second_model_of_the_step"


def find_reference(model: Any, recipe: Recipe) -> Reference:
    """Return what the reference of a recipe is on a model."""
    if recipe.reference is not None:
        return Reference(recipe.reference)
    if recipe.stage not in (Stage.DPO, Stage.KTO):
        return Reference.NONE
    return Reference.ADAPTER if hasattr(model, "disable_adapter") else Reference.MODEL


def keep_second_model(model: Any) -> None:
    """Make a copy of a model without its adapter, the way TRL loads one, and keep it beside the model."""
    second = copy_model(model)
    if hasattr(second, "unload"):
        second = second.unload()
    second.eval()
    model.__dict__[_SECOND] = second


def find_second_model(model: Any) -> nn.Module | None:
    """Return the second model of a step, None where there is none."""
    second: nn.Module | None = model.__dict__.get(_SECOND)
    return second


def disable_dropout(model: nn.Module) -> None:
    """Set dropout to 0, as TRL's `disable_dropout_in_model` does: attention's own rate is none of a module's."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


class Passes:
    """What a stage calls for its passes, and who is told of their phases.

    `policy` calls the model as accelerate prepares it.
    """

    def __init__(self, model: Any, recipe: Recipe, on_phase: OnPhase, device: torch.device) -> None:
        self.recipe = recipe
        self.model = model
        self._on_phase = on_phase
        self._step = 0
        second = find_second_model(model)
        self.device = device
        self.precision = MixedPrecision(str(recipe.mixed_precision), device)
        self.policy: Callable[..., Any] = self.precision.wrap_forward(model)
        self._second = None if second is None else self.precision.wrap_forward(second)

    def enter(self, phase: Phase, step: int) -> None:
        """Pass a phase of the loop on, whose step the phases in between are of."""
        self._step = step
        self._on_phase(phase, step)

    @contextlib.contextmanager
    def run_reference(self) -> Iterator[Callable[..., Any]]:
        """Give what calls the reference inside the block."""
        with self.run_beside(), torch.no_grad(), pause_checkpointing(self.model):
            if self._second is not None:
                yield self._second
            else:
                with self.model.disable_adapter():
                    yield self.policy

    @contextlib.contextmanager
    def run_beside(self, phase: Phase = Phase.REFERENCE) -> Iterator[None]:
        """Say that what runs inside the block is of a phase of its own beside the forward pass."""
        self._on_phase(phase, self._step)
        yield
        self._on_phase(Phase.FORWARD, self._step)

    @property
    def generator(self) -> Callable[..., Any]:
        """Return what generates: the transformers model, which accelerate has prepared where nothing wraps it."""
        base = base_model(self.model)
        plain = functools.partial(type(base).forward, base)  # without a fused head
        return self.precision.wrap_forward(plain) if base is self.model else plain


@contextlib.contextmanager
def pause_checkpointing(model: Any) -> Iterator[None]:
    """Switch checkpointing off inside the block, in the modules where it is on."""
    paused = [module for module in base_model(model).modules() if getattr(module, "gradient_checkpointing", False)]
    for module in paused:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in paused:
            module.gradient_checkpointing = True
