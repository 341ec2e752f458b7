"""What `inspect measure` runs, on the CPU: it allocates and frees what the tape under CPU's rules says.

The same `run_steps` runs on a GPU; only the device differs, and who watches.
"""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from inspector.hardware.platform import Platform, find_installed_torch
from inspector.measure.running import run_steps
from inspector.records.recipe import Recipe
from inspector.records.tape import Category, Event, Phase, WorkloadInfo
from inspector.trace.rules.any_device import treat_meta_as_device
from inspector.trace.rules.moe_routing import loops_over_experts
from inspector.trace.rules.token_choice import ListIndices, read_tokens, see_made_tensors
from inspector.trace.tracer import Tracer
from inspector.workloads.base import base_model
from inspector.workloads.batch import Input, find_plain_token
from inspector.workloads.loading import list_in_load_order
from inspector.workloads.registry import GENERATE, TRAINING, load_workload
from inspector.workloads.run import build_categories
from tests.trace.cpu_truth import assert_aligned, profiled_events, tape_events
from tests.trace.small_models import RECIPE, SMALL, build
from tests.workloads.tracing import built

# Kernels of the CPU that take memory of their own here: drawing weights, and counting labels (sum casts its input).
_KERNELS = ("aten::normal_", "aten::sum")


def traced(model: nn.Module, recipe: Recipe, info: WorkloadInfo = TRAINING) -> list[Event]:
    """Return the tape of loading a model and of two steps, or of a generation, under CPU's rules."""
    workload = load_workload(info)
    workload.prepare(model, recipe)
    state = workload.make_state(model, recipe, on_gpu=False) if info.generates else None
    tracer = Tracer(
        Platform(torch_version=find_installed_torch()),
        categories=None if state is None else build_categories(workload, model, state),
        on_cuda=False,
        balances_experts=loops_over_experts(base_model(model)),
        token=find_plain_token(base_model(model)) if info.generates else None,
    )
    for _, tensor, category in list_in_load_order(built(model)):
        tracer.hold([tensor], category)
    batch: dict[str, Any] = {}
    for name, item in workload.make_inputs(model, recipe).items():
        batch[name] = item.on("meta") if isinstance(item, Input) else item
        if isinstance(item, Input) and not item.dtype.is_floating_point:
            tracer.shadows.set(batch[name], item.on("cpu"))
    tracer.hold((item for item in batch.values() if isinstance(item, Tensor)), Category.INPUTS)
    with treat_meta_as_device(), see_made_tensors(tracer.see_made), read_tokens(tracer.shadows), ListIndices(), tracer:
        state = state or workload.make_state(model, recipe, on_gpu=False)
        held = workload.run(model, batch, state, tracer.enter, recipe)
        tape = tracer.tape()
        del held
        return tape


class Noted:
    """Whoever watches is told of these phases."""

    def __init__(self) -> None:
        self.phases: list[tuple[int, Phase] | None] = []

    def enter(self, phase: Phase, step: int) -> None:
        """Note the phase."""
        self.phases.append((step, phase))

    def close(self) -> None:
        """Note the end."""
        self.phases.append(None)


class StopsAtTheEnd:
    """A profile ends when the steps are over, while batch and optimizer are still there, as the tape does."""

    def __init__(self, recorded: profile) -> None:
        self._recorded = recorded

    def enter(self, phase: Phase, step: int) -> None:
        """Let the profile go on."""

    def close(self) -> None:
        """End the profile."""
        self._recorded.stop()


# Models whose buffers are small: their values are made on the CPU first, where a GPU would not see them.
CASES = (
    ("llama", False, "trainer"),
    ("llama", False, "plain"),
    ("llama", True, "trainer"),
    ("qwen2", True, "plain"),
    ("gpt2", False, "trainer"),
    ("t5", False, "trainer"),
    ("vit", False, "plain"),
)


@pytest.mark.parametrize(("name", "adapter", "loop"), CASES)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.one_of(2)
def test_the_steps_that_are_measured_allocate_what_the_tape_says(name: str, adapter: bool, loop: str) -> None:
    # On the CPU, too: a fused optimizer takes no tensors on meta outside a trace.
    seq_len = None if name == "vit" else RECIPE.seq_len
    recipe = dataclasses.replace(RECIPE, loop=loop, seq_len=seq_len, optimizer="adamw_torch")
    model = build("meta", name, adapter=adapter)[0]
    gc.collect()
    recorded = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    recorded.start()
    run_steps(load_workload(TRAINING), built(model), recipe, torch.device("cpu"), StopsAtTheEnd(recorded))
    real, inside = profiled_events(recorded, (*SMALL[name].kernels, *_KERNELS))
    tape = traced(build("meta", name, adapter=adapter)[0], recipe)
    assert {event.step for event in tape} == {0, 1, 2}
    assert_aligned(real, inside, tape_events(tape))


@pytest.mark.parametrize("name", ["llama", "t5", "whisper"])
@pytest.mark.filterwarnings("ignore")
def test_the_generation_that_is_measured_allocates_what_the_tape_says(name: str) -> None:
    recipe = Recipe(batch_size=2, prompt_len=12, new_tokens=4, padding=False, attention="eager")
    model = build("meta", name)[0]
    gc.collect()
    recorded = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    recorded.start()
    run_steps(load_workload(GENERATE), built(model), recipe, torch.device("cpu"), StopsAtTheEnd(recorded))
    real, inside = profiled_events(recorded, (*SMALL[name].kernels, *_KERNELS))
    tape = traced(build("meta", name)[0], recipe, GENERATE)
    assert {event.step for event in tape} == {0, 1, 2, 3, 4}
    assert_aligned(real, inside, tape_events(tape))


@pytest.mark.filterwarnings("ignore")
def test_a_running_step_reports_every_phase_to_its_callback() -> None:
    watcher = Noted()
    recipe = dataclasses.replace(RECIPE, gradient_accumulation=2)
    run_steps(load_workload(TRAINING), built(build("meta", "llama")[0]), recipe, torch.device("cpu"), watcher)
    micro = [Phase.FORWARD, Phase.BACKWARD]
    step = [*micro, *micro, Phase.OPTIMIZER]
    assert watcher.phases == [(0, Phase.LOAD), *((number, phase) for number in (1, 2) for phase in step), None]
