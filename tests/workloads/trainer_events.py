"""The second update of a real Trainer and of the step that is traced, as torch's profiler sees them on the CPU."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from inspector.records.recipe import Recipe
from inspector.records.tape import Phase
from inspector.workloads.training.loops import run_trainer_steps
from inspector.workloads.training.optimizers import build_optimizer
from tests.trace.cpu_truth import relevant

__all__ = [
    "Recorder",
    "find_arguments",
    "in_any_order_of_frees",
    "list_memory_events",
    "list_our_events",
    "list_trainer_events",
    "profile_our_update",
]


class Recorder(transformers.TrainerCallback):
    """Record the second update of a Trainer."""

    def __init__(self) -> None:
        self.profile: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start before the first forward pass of the second update."""
        if state.global_step == 1:
            gc.collect()  # what other tests left would be freed on the way
            gc.disable()  # when it runs hangs on what they made, too
            self.profile.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop when its gradients are gone."""
        if state.global_step == 2:
            self.profile.__exit__(None, None, None)
            gc.enable()

    def list_events(self) -> list[int]:
        """Return the signed sizes of what was seen, in order."""
        return list_memory_events(self.profile)


def find_arguments(recipe: Recipe, batch_size: int, folder: Path) -> dict[str, Any]:
    """Return the training arguments of a recipe for three updates on the CPU."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "optim": recipe.optimizer,
        "optim_args": recipe.optim_args,
        "max_grad_norm": recipe.max_grad_norm,
        "max_steps": 3,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "bf16": recipe.mixed_precision == "bf16",
    }


def list_trainer_events(
    model: Any,
    batch: dict[str, Any],
    recipe: Recipe,
    folder: Path,
    trainer_class: type[transformers.Trainer] = transformers.Trainer,
) -> list[int]:
    """Return what a real Trainer allocates and frees in its second update on batches like this one."""
    tensors = {key: item for key, item in batch.items() if isinstance(item, torch.Tensor)}
    flags = {key: item for key, item in batch.items() if key not in tensors}
    count = len(next(iter(tensors.values())))
    rows = [{key: tensor[row] for key, tensor in tensors.items()} for row in range(count)]
    recorder = Recorder()

    def collate(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        return {key: torch.stack([item[key] for item in items]) for key in items[0]} | flags

    trainer_class(
        model=model,
        args=transformers.TrainingArguments(
            **find_arguments(recipe, len(rows), folder), remove_unused_columns=trainer_class is transformers.Trainer
        ),
        train_dataset=rows * (4 * recipe.gradient_accumulation),
        callbacks=[recorder],
        data_collator=collate,
    ).train()
    return recorder.list_events()


def assert_same_events(list_both: Callable[[int], tuple[list[int], list[int]]]) -> None:
    """Compare what two updates allocate and free, twice where they differ: what an earlier test left may be freed."""
    for attempt in range(2):
        ours, theirs = list_both(attempt)
        if ours == theirs:
            return
    assert ours == theirs


def list_our_events(model: Any, batch: dict[str, Any], recipe: Recipe) -> list[int]:
    """Return what `run_trainer_steps` allocates and frees in its second update."""
    return list_memory_events(profile_our_update(model, batch, recipe))


def profile_our_update(model: Any, batch: dict[str, Any], recipe: Recipe, around: Any = contextlib.nullcontext) -> Any:
    """Return the profile of the second of two updates of `run_trainer_steps`."""
    optimizer = build_optimizer(model, recipe)
    recorded: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    started = False

    def on_phase(_phase: Phase, step: int) -> None:
        nonlocal started
        if step == 2 and not started:
            started = True
            gc.collect()
            gc.disable()
            recorded.__enter__()

    try:
        run_trainer_steps(
            model,
            batch,
            optimizer,
            on_phase,
            steps=2,
            max_grad_norm=recipe.max_grad_norm,
            gradient_accumulation=recipe.gradient_accumulation,
            mixed_precision=recipe.mixed_precision,
            around=around,
        )
        recorded.__exit__(None, None, None)
    finally:
        gc.enable()
    return recorded


def in_any_order_of_frees(events: list[int]) -> list[int]:
    """Return events with each run of frees sorted: under autocast a table by address holds the casts."""
    runs = [list(run) for _, run in itertools.groupby(events, key=lambda size: size < 0)]
    return [size for run in runs for size in (sorted(run) if run[0] < 0 else run)]


def list_memory_events(recorded: Any) -> list[int]:
    """Return the signed sizes of what a profile saw, in order."""
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    ordered = sorted(events, key=lambda event: event.start_ns())
    return [event.nbytes() for event in ordered if relevant(event.nbytes())]
