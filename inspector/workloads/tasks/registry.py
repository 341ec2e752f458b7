"""The registry of tasks, and what several of them make."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from inspector.records.recipe import Recipe
from inspector.workloads.inputs import Input, Inputs

__all__ = [
    "Task",
    "find_own_task",
    "find_task",
    "has_own_loss",
    "list_arguments",
    "make_mask",
    "register",
]

Task = Callable[[Any, Recipe, Input], Inputs]

_CANNOT_TRAIN = re.compile(
    r"(training|labels?|loss)\W[^\"']{0,60}not (yet )?(been )?(supported|implemented)|not support training|"
    r"not trainable",
    re.IGNORECASE,
)

_TASKS: dict[tuple[str, str], Task] = {}


def find_task(model: Any) -> Task | None:
    """Return what makes the batch of a model by the end of its class's name, None where no task has it."""
    name, main = type(model).__name__, model.main_input_name
    main = main[0] if isinstance(main, list) and main else main  # OneFormer names two
    found = (task for (ending, wanted), task in _TASKS.items() if name.endswith(ending) and wanted == main)
    return _TASKS.get((name, main)) or next(found, None)


def find_own_task(model: Any) -> Task | None:
    """Return what makes the batch of this very class, None where only kinds of classes have one."""
    main = model.main_input_name
    return _TASKS.get((type(model).__name__, main)) if isinstance(main, str) else None


def register(*endings: str, main: tuple[str, ...]) -> Callable[[Task], Task]:
    """Register a task for classes whose names end so and whose main input is one of `main`."""

    def add(task: Task) -> Task:
        for ending in endings:
            for name in main:
                if (ending, name) in _TASKS:
                    raise ValueError(f"two tasks for {ending} with {name}")
                _TASKS[ending, name] = task
        return task

    return add


def list_arguments(model: Any) -> set[str]:
    """Return the names of what a model's forward takes."""
    return set(inspect.signature(type(model).forward).parameters)


def make_mask(recipe: Recipe, ids: Input) -> dict[str, Input]:
    """Return the mask of a padded batch, or of a collator that always sends one."""
    if not recipe.padding and not recipe.attention_mask:
        return {}
    return {"attention_mask": Input(shape=ids.shape, value=1, last=0 if recipe.padding else None)}


def has_own_loss(model: Any) -> bool:
    """Tell whether a class computes a loss where it takes labels: some say that they cannot train."""
    source = inspect.getsource(type(model).forward)
    return "loss" in source and not _CANNOT_TRAIN.search(source)
