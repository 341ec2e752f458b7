"""The workload `forward`: a pass without gradients, traced as it runs on real tensors."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

import inspector
from inspector.hardware.platform import Platform, find_installed_torch
from inspector.records.recipe import Recipe
from inspector.records.tape import Category, Phase
from inspector.trace.rules.any_device import treat_meta_as_device
from inspector.trace.rules.moe_routing import loops_over_experts
from inspector.trace.tracer import Tracer
from inspector.workloads.base import base_model
from inspector.workloads.batch import Input
from inspector.workloads.registry import FORWARD, load_workload
from inspector.workloads.run import build_categories
from tests.model.tiny import llama
from tests.trace.cpu_truth import assert_aligned, profiled_events, tape_events
from tests.trace.small_models import LENGTH, SMALL, build

WORKLOAD = load_workload(FORWARD)
RECIPE = Recipe(batch_size=2, seq_len=LENGTH, padding=False, attention="eager")
CASES = ("llama", "gemma2", "gpt2", "bert", "t5", "mixtral")


def make_batch(model: Any, device: str, shadows: Any = None) -> dict[str, Any]:
    """Return the batch of a forward pass on a device."""
    batch: dict[str, Any] = {}
    for name, item in WORKLOAD.make_inputs(model, RECIPE).items():
        batch[name] = item.on(device) if isinstance(item, Input) else item
        if shadows is not None and isinstance(item, Input) and not item.dtype.is_floating_point:
            shadows.set(batch[name], item.on("cpu"))
    return batch


def real_passes(name: str, *, adapter: bool) -> tuple[list[int], list[bool]]:
    """Return what two passes on the CPU allocate and free, the second two of four."""
    model = build("cpu", name, adapter=adapter)[0]
    WORKLOAD.prepare(model, RECIPE)
    batch = make_batch(model, "cpu")
    held = WORKLOAD.run(model, batch, None, lambda _phase, _step: None, RECIPE)
    del held
    gc.collect()
    recorded = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    recorded.start()
    held = WORKLOAD.run(model, batch, None, lambda _phase, _step: None, RECIPE)
    recorded.stop()
    del held
    return profiled_events(recorded, SMALL[name].kernels)


def meta_passes(name: str, *, adapter: bool) -> list[int]:
    """Return the same of two passes on meta, without CUDA's rules."""
    model = build("meta", name, adapter=adapter)[0]
    WORKLOAD.prepare(model, RECIPE)
    categories = build_categories(WORKLOAD, model)
    balances = loops_over_experts(base_model(model))
    platform = Platform(torch_version=find_installed_torch())
    tracer = Tracer(platform, None, categories, on_cuda=False, balances_experts=balances)
    tracer.hold((*model.parameters(), *model.buffers()), Category.WEIGHTS)
    batch = make_batch(model, "meta", tracer.shadows)
    tracer.hold((item for item in batch.values() if isinstance(item, torch.Tensor)), Category.INPUTS)
    with treat_meta_as_device(), tracer:
        held = WORKLOAD.run(model, batch, None, tracer.enter, RECIPE)
        tape = tracer.tape()
        del held
    return tape_events(event for event in tape if event.step)


# PEFT's layers on Mixtral's experts multiply in a dtype that torch's CPU kernel refuses.
@pytest.mark.parametrize(
    ("name", "adapter"), [*((name, False) for name in CASES), *((name, True) for name in CASES[:-1])]
)
@pytest.mark.filterwarnings("ignore")
def test_a_forward_pass_on_meta_allocates_what_one_with_data_does(name: str, adapter: bool) -> None:
    real, inside = real_passes(name, adapter=adapter)
    assert_aligned(real, inside, meta_passes(name, adapter=adapter))


def test_a_forward_pass_keeps_nothing_but_its_outputs() -> None:
    report = inspector.inspect(llama(), workload="forward", recipe=Recipe(seq_len=64))
    assert report.training is None
    memory = report.memory
    assert memory is not None
    assert [phase.name for phase in memory.phases] == [Phase.LOAD, Phase.FORWARD]
    kept = memory.end_of_step_allocated_bytes - memory.phases[0].end_allocated_bytes
    logits = 64 * llama().vocab_size * 2
    other = memory.peak.breakdown[Category.OTHER]
    assert kept - other == 512 * -(-logits // 512)
    gone = (Category.GRADIENTS, Category.OPTIMIZER, Category.ACTIVATIONS)
    assert [memory.peak.breakdown[category] for category in gone] == [0, 0, 0]


def test_the_report_of_a_forward_pass_has_the_settings_that_it_reads_and_no_bytes_of_training() -> None:
    report = inspector.inspect(llama(), workload="forward", recipe={"batch_size": 2}).to_dict()
    assert "training" not in report
    assert "static" not in report
    assert report["forward"]["recipe"]["batch_size"] == 2
    assert "optimizer" not in report["forward"]["recipe"]
    json.dumps(report)


@pytest.mark.parametrize(
    "recipe", [{"optimizer": "sgd"}, {"gradient_checkpointing": True}, {"loop": "plain"}, {"gradient_accumulation": 2}]
)
def test_a_setting_that_means_nothing_to_a_forward_pass_is_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(inspector.UsageError, match=f"`{next(iter(recipe))}` has no effect on the workload forward"):
        inspector.inspect(llama(), workload="forward", recipe=recipe)


def test_an_unknown_workload_is_refused_with_the_known_ones() -> None:
    with pytest.raises(inspector.UsageError, match="use one of training, forward"):
        inspector.inspect(llama(), workload="backward")


def test_an_encoder_without_a_loss_runs_forward() -> None:
    config = transformers.BertConfig(
        architectures=["BertModel"], hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    report = inspector.inspect(config, workload="forward", recipe={"seq_len": 32})
    assert report.memory is not None, report.warnings


def test_a_batch_is_searched_and_advice_is_about_the_forward_pass() -> None:
    config = llama(max_position_embeddings=2048)
    report = inspector.inspect(config, workload="forward", gpu_memory="2GiB", fit="batch-size")
    assert report.search is not None
    assert report.search.value is not None
    changes = [advice.change for verdict in report.fit or () for advice in verdict.advice or ()]
    assert not [change for change in changes if "optimizer" in change or "checkpointing" in change or "lora" in change]
