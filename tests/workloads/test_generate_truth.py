"""`model.generate` on meta allocates what it does on real tensors of the CPU, event by event, whatever its cache."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from typing import Any

import pytest
from torch.profiler import ProfilerActivity, profile
from transformers import GenerationMixin

from inspector.hardware.platform import Platform, find_installed_torch
from inspector.records.recipe import Recipe
from inspector.records.tape import Category, Event
from inspector.trace.rules.any_device import treat_meta_as_device
from inspector.trace.rules.token_choice import ListIndices, read_tokens, see_made_tensors
from inspector.trace.shadow import use_one_thread
from inspector.trace.tracer import Tracer
from inspector.workloads.base import base_model
from inspector.workloads.batch import Input, find_plain_token
from inspector.workloads.registry import GENERATE, load_workload
from inspector.workloads.run import build_categories
from tests.trace.cpu_truth import assert_aligned, profiled_events, tape_events
from tests.trace.small_models import SMALL, build

WORKLOAD = load_workload(GENERATE)
RECIPE = Recipe(batch_size=2, prompt_len=20, new_tokens=4, padding=False, attention="eager")


def make_batch(model: Any, recipe: Recipe, device: str, shadows: Any = None) -> dict[str, Any]:
    """Return the prompts on a device."""
    batch: dict[str, Any] = {}
    for name, item in WORKLOAD.make_inputs(model, recipe).items():
        assert isinstance(item, Input)
        batch[name] = item.on(device)
        if shadows is not None:
            shadows.set(batch[name], item.on("cpu"))
    return batch


def generate_for_real(name: str, recipe: Recipe, *, adapter: bool = False) -> tuple[list[int], list[bool]]:
    """Return what a generation on the CPU allocates and frees, the second of two."""
    model = build("cpu", name, adapter=adapter)[0]
    WORKLOAD.prepare(model, recipe)
    batch = make_batch(model, recipe, "cpu")

    def run() -> Any:
        state = WORKLOAD.make_state(model, recipe, on_gpu=False)
        return WORKLOAD.run(model, batch, state, lambda _phase, _step: None, recipe)

    with use_one_thread():
        held = run()
        del held
        gc.collect()
        recorded = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        recorded.start()
        held = run()
        recorded.stop()
        del held
    return profiled_events(recorded, SMALL[name].kernels)


def trace_generation(name: str, recipe: Recipe, *, adapter: bool = False) -> list[Event]:
    """Return the tape of the same on meta, without CUDA's rules."""
    model = build("meta", name, adapter=adapter)[0]
    WORKLOAD.prepare(model, recipe)
    state = WORKLOAD.make_state(model, recipe, on_gpu=False)
    tracer = Tracer(
        Platform(torch_version=find_installed_torch()),
        None,
        build_categories(WORKLOAD, model, state),
        on_cuda=False,
        token=find_plain_token(base_model(model)),
    )
    tracer.hold((*model.parameters(), *model.buffers()), Category.WEIGHTS)
    batch = make_batch(model, recipe, "meta", tracer.shadows)
    tracer.hold(batch.values(), Category.INPUTS)
    with treat_meta_as_device(), see_made_tensors(tracer.see_made), read_tokens(tracer.shadows), ListIndices(), tracer:
        held = WORKLOAD.run(model, batch, state, tracer.enter, recipe)
        tape = tracer.tape()
        del held
    return [event for event in tape if event.step]


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("llama", {}),
    "sliding": ("mistral", {}),
    "alternating": ("gemma3_text", {}),
    "latent": ("deepseek_v3", {}),
    "cross": ("t5", {}),
    "of sound": ("whisper", {}),
    "padded, cross": ("bart", {"padding": True}),
    "experts": ("mixtral", {}),
    "padded": ("qwen3", {"padding": True}),
    "static": ("llama", {"cache": "static"}),
    "float8": ("llama", {"cache": "fp8"}),
    "none": ("llama", {"cache": "none"}),
    "in pieces": ("llama", {"prefill_chunk_size": 8}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_a_generation_on_meta_allocates_what_one_with_data_does(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Off the CPU experts are gathered for decoding, on the CPU not: here both run as the CPU does.
    monkeypatch.setattr(GenerationMixin, "_optimize_model_for_decode", lambda _model: contextlib.nullcontext())
    name, changes = CASES[case]
    recipe = dataclasses.replace(RECIPE, **changes)
    real, inside = generate_for_real(name, recipe)
    assert_aligned(real, inside, tape_events(trace_generation(name, recipe)))


@pytest.mark.filterwarnings("ignore")
def test_a_generation_with_an_adapter_that_is_not_merged_allocates_what_one_with_data_does() -> None:
    real, inside = generate_for_real("llama", RECIPE, adapter=True)
    assert_aligned(real, inside, tape_events(trace_generation("llama", RECIPE, adapter=True)))
