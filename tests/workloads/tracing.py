"""A model that a test built itself -> the tape of a run on it, without a request."""

from __future__ import annotations

from typing import Any

from peft import PeftModel

from inspector.hardware.platform import Platform, build_platform
from inspector.model.adapter.attach import detach_adapter
from inspector.model.build import BuiltModel
from inspector.model.census import assign_roles, count_base
from inspector.records.recipe import Recipe
from inspector.records.tape import Event
from inspector.workloads.registry import TRAINING, load_workload
from inspector.workloads.run import trace_run

__all__ = ["built", "resolve", "trace"]


def built(model: Any) -> BuiltModel:
    """Return a model with the roles of its parameters; what is not its base's was added by PEFT."""
    base = detach_adapter(model) if isinstance(model, PeftModel) else model
    return BuiltModel(model=model, roles=assign_roles(model, count_base(base)))


def resolve(model: Any, recipe: Recipe) -> Recipe:
    """Return a recipe as a training step of it runs on a model."""
    return load_workload(TRAINING).resolve(model, recipe)


def trace(
    model: Any, recipe: Recipe, platform: Platform | None = None, *, attaches_on_card: bool = False
) -> list[Event]:
    """Return the tape of a training step on a model, or on one with known roles."""
    known = model if isinstance(model, BuiltModel) else built(model)
    workload = load_workload(TRAINING)
    settled = workload.resolve(known.model, recipe)
    return trace_run(workload, known, settled, platform or build_platform(None), attaches_on_card=attaches_on_card)
