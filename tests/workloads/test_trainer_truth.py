"""The step that is traced is the step that `transformers.Trainer` runs: torch's profiler watches both on the CPU."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from inspector.records.recipe import Recipe
from inspector.records.tape import Phase
from inspector.workloads.training.loops import run_trainer_steps
from inspector.workloads.training.optimizers import build_optimizer
from tests.trace.cpu_truth import relevant
from tests.trace.small_models import BATCH, build


class Recorder(transformers.TrainerCallback):
    """Record the second update of a Trainer."""

    def __init__(self) -> None:
        self.profile: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start before the first forward pass of the second update."""
        if state.global_step == 1:
            self.profile.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop when its gradients are gone."""
        if state.global_step == 2:
            self.profile.__exit__(None, None, None)


def memory_events(recorded: Any) -> list[int]:
    """Return the signed sizes of what a profile saw, in order."""
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    ordered = sorted(events, key=lambda event: event.start_ns())
    return [event.nbytes() for event in ordered if relevant(event.nbytes())]


def trainer_events(name: str, recipe: Recipe, folder: Path) -> list[int]:
    """Return what a real Trainer allocates and frees in its second update."""
    model, batch = build("cpu", name)
    tensors = {key: item for key, item in batch.items() if isinstance(item, torch.Tensor)}
    flags = {key: item for key, item in batch.items() if key not in tensors}
    rows = [{key: tensor[row] for key, tensor in tensors.items()} for row in range(BATCH)]
    recorder = Recorder()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        optim=recipe.optimizer,
        optim_args=recipe.optim_args,
        max_grad_norm=recipe.max_grad_norm,
        max_steps=3,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        bf16=recipe.mixed_precision == "bf16",
    )
    transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=rows * (4 * recipe.gradient_accumulation),
        callbacks=[recorder],
        data_collator=lambda items: {key: torch.stack([item[key] for item in items]) for key in items[0]} | flags,
    ).train()
    return memory_events(recorder.profile)


def our_events(name: str, recipe: Recipe) -> list[int]:
    """Return what `run_trainer_steps` allocates and frees in its second update."""
    model, batch = build("cpu", name)
    return record_second_update(model, batch, build_optimizer(model, recipe), recipe)


def record_second_update(model: Any, batch: Any, optimizer: Any, recipe: Recipe) -> list[int]:
    """Return what the second of two updates of `run_trainer_steps` allocates and frees."""
    return memory_events(profile_second_update(model, batch, optimizer, recipe))


def profile_second_update(model: Any, batch: Any, optimizer: Any, recipe: Recipe, around: Any = nullcontext) -> Any:
    """Return the profile of the second of two updates of `run_trainer_steps`."""
    recorded: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    started = False

    def on_phase(_phase: Phase, step: int) -> None:
        nonlocal started
        if step == 2 and not started:
            started = True
            recorded.__enter__()

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
    return recorded


# Decoders, experts, encoders with each head, encoder-decoders, images, speech, and models that take no count of labels
# (gemma3, clip): one of each way in which the step differs.
@pytest.mark.parametrize(
    ("name", "accumulation"),
    [
        *((name, 1) for name in ("qwen2", "gemma2", "gpt_neox", "gpt2", "opt", "mixtral", "bert", "electra", "mpnet")),
        *((name, 1) for name in ("bart", "vit", "llava", "whisper", "gemma3")),
        *((name, steps) for name in ("llama", "t5", "clip") for steps in (1, 2)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_trainers_update_allocates_and_frees_what_ours_does(name: str, accumulation: int, tmp_path: Path) -> None:
    recipe = Recipe(gradient_accumulation=accumulation)
    assert our_events(name, recipe) == trainer_events(name, recipe, tmp_path)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(max_grad_norm=0),  # the Trainer takes the norm of the gradients all the same, and logs it
        Recipe(optimizer="adamw_torch_fused"),
        Recipe(optimizer="sgd", optim_args="momentum=0.9,nesterov=true"),
        Recipe(optimizer="adagrad"),
        Recipe(optimizer="rmsprop", optim_args="momentum=0.9,centered=true"),
        Recipe(optimizer="adafactor"),
    ],
    ids=lambda recipe: recipe.optimizer,
)
@pytest.mark.filterwarnings("ignore")
def test_a_trainers_update_allocates_and_frees_what_ours_does_with_every_optimizer(
    recipe: Recipe, tmp_path: Path
) -> None:
    assert our_events("llama", recipe) == trainer_events("llama", recipe, tmp_path)
