"""The step that is traced is the step that `transformers.Trainer` runs: torch's profiler watches both on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.profiler import ProfilerActivity, profile
from transformers.trainer_pt_utils import get_parameter_names

from inspector.trace.step import trainer_steps
from inspector.training_records import Phase
from tests.trace.cpu_truth import relevant
from tests.trace.test_cpu_truth import BATCH, build

# What transformers.Trainer leaves without weight decay (trainer.py, get_decay_parameter_names).
WITHOUT_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


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


def trainer_events(model_type: str, accumulation: int, folder: Path, **more: Any) -> list[int]:
    """Return what a real Trainer allocates and frees in its second update."""
    model, batch = build("cpu", model_type)
    rows = [{name: tensor[row] for name, tensor in batch.items()} for row in range(BATCH)] * (4 * accumulation)
    recorder = Recorder()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=accumulation,
        optim="adamw_torch",
        max_steps=3,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **more,
    )
    transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        callbacks=[recorder],
        data_collator=lambda items: {name: torch.stack([item[name] for item in items]) for name in items[0]},
    ).train()
    return memory_events(recorder.profile)


def our_events(model_type: str, accumulation: int, **more: Any) -> list[int]:
    """Return what `trainer_steps` allocates and frees in its second update, with the Trainer's parameter groups."""
    model, batch = build("cpu", model_type)
    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], WITHOUT_DECAY))
    named = list(model.named_parameters())
    groups = [[tensor for name, tensor in named if (name in decayed) is decays] for decays in (True, False)]
    optimizer = torch.optim.AdamW([{"params": group} for group in groups])
    recorded: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    started = False

    def on_phase(_phase: Phase, step: int) -> None:
        nonlocal started
        if step == 2 and not started:
            started = True
            recorded.__enter__()

    trainer_steps(model, batch, optimizer, on_phase, steps=2, gradient_accumulation=accumulation, **more)
    recorded.__exit__(None, None, None)
    return memory_events(recorded)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
@pytest.mark.filterwarnings("ignore")
def test_a_trainers_update_allocates_and_frees_what_ours_does(
    model_type: str, accumulation: int, tmp_path: Path
) -> None:
    assert our_events(model_type, accumulation) == trainer_events(model_type, accumulation, tmp_path)
