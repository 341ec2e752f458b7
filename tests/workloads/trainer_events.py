"""The second update of a real Trainer and of the step that is traced, as torch's profiler sees them on the CPU."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from inspector.records.recipe import Recipe
from inspector.records.tape import Phase
from inspector.workloads.inputs import map_tensors
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


# An allocation of so many bytes says where a profile is to be read from: it sees frees of what it saw made alone.
_MARK = 7_654_321


class Recorder(transformers.TrainerCallback):
    """Record the second update of a Trainer, from its first pass on or, `with_batches`, from the end of the first."""

    def __init__(self, *, with_batches: bool = False) -> None:
        self.profile: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._with_batches = with_batches

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start before batches are made."""
        if self._with_batches:
            self._start()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start before the first forward pass of the second update."""
        if state.global_step == 1 and not self._with_batches:
            self._start()

    def _start(self) -> None:
        gc.collect()  # what other tests left would be freed on the way
        gc.disable()  # when it runs hangs on what they made, too
        self.profile.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop when its gradients are gone."""
        if state.global_step == 1:
            mark()
        if state.global_step == 2:
            self.profile.__exit__(None, None, None)
            gc.enable()

    def list_events(self) -> list[int]:
        """Return the signed sizes of what was seen, in order."""
        return list_memory_events(self.profile)


def mark() -> None:
    """Say that a profile is read from here on."""
    torch.empty(_MARK, dtype=torch.uint8)


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
    """Return what a real Trainer allocates and frees from the end of its first update to that of its second one.

    Every batch is this one, copied where accelerate would bring it to a device.
    """
    rows = len(next(item for item in batch.values() if isinstance(item, torch.Tensor)))
    recorder = Recorder(with_batches=True)
    trainer = trainer_class(
        model=model,
        args=transformers.TrainingArguments(
            **find_arguments(recipe, rows, folder), remove_unused_columns=trainer_class is transformers.Trainer
        ),
        train_dataset=[{"row": 0}] * (rows * 4 * recipe.gradient_accumulation),
        callbacks=[recorder],
        data_collator=lambda _rows: batch,
    )
    with mock.patch("accelerate.data_loader.send_to_device", lambda given, *_, **__: copy_batch(given)):
        trainer.train()
    return recorder.list_events()


def copy_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with tensors of its own."""
    return {name: map_tensors(item, torch.Tensor.clone) for name, item in batch.items()}


def assert_same_events(list_both: Callable[[int], tuple[list[int], list[int]]]) -> None:
    """Compare what two updates allocate and free, twice where they differ: what an earlier test left may be freed."""
    for attempt in range(2):
        ours, theirs = list_both(attempt)
        if ours == theirs:
            return
    assert ours == theirs


def list_our_events(model: Any, batch: dict[str, Any], recipe: Recipe, *, with_batches: bool = False) -> list[int]:
    """Return what `run_trainer_steps` allocates and frees in its second update."""
    return list_memory_events(profile_our_update(model, batch, recipe, with_batches=with_batches))


def profile_our_update(
    model: Any,
    batch: dict[str, Any],
    recipe: Recipe,
    around: Any = contextlib.nullcontext,
    *,
    with_batches: bool = False,
) -> Any:
    """Return the profile of the second of two updates of `run_trainer_steps`, from where a `Recorder` starts."""
    optimizer = build_optimizer(model, recipe)
    recorded: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    started = False
    updates = 0
    zero_grad = model.zero_grad

    def start() -> None:
        nonlocal started
        if not started:
            started = True
            gc.collect()
            gc.disable()
            recorded.__enter__()

    def on_phase(_phase: Phase, step: int) -> None:
        if step == 2:
            start()

    def end_update() -> None:
        nonlocal updates
        zero_grad()
        updates += 1
        if updates == 1:
            mark()

    model.zero_grad = end_update
    try:
        if with_batches:
            start()
        held = run_trainer_steps(
            model,
            copy_batch(batch),
            optimizer,
            on_phase,
            steps=2,
            max_grad_norm=recipe.max_grad_norm,
            gradient_accumulation=recipe.gradient_accumulation,
            mixed_precision=recipe.mixed_precision,
            around=around,
        )
        recorded.__exit__(None, None, None)
        del held
    finally:
        gc.enable()
    return recorded


def in_any_order_of_frees(events: list[int]) -> list[int]:
    """Return events with each run of frees sorted: under autocast a table by address holds the casts."""
    runs = [list(run) for _, run in itertools.groupby(events, key=lambda size: size < 0)]
    return [size for run in runs for size in (sorted(run) if run[0] < 0 else run)]


def list_memory_events(recorded: Any) -> list[int]:
    """Return the signed sizes of what a profile saw of a second update, in order."""
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    start = sizes.index(-_MARK) + 1 if -_MARK in sizes else 0
    return [size for size in sizes[start:] if relevant(size)]
