"""Layers that go through a sequence position by position: what is said of them, and where their steps are too long."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

import inspector
from inspector.measure.measuring import check_machine
from inspector.workloads.training.loops import run_plain_steps
from tests.trace.cpu_truth import adamw, assert_aligned, meta_step, profiled_events, trained
from tests.trace.small_models import SMALL, Small, build


def mamba(layers: int = 2, **fields: Any) -> transformers.MambaConfig:
    sizes = {"hidden_size": 16, "state_size": 4, "vocab_size": 32, "num_hidden_layers": layers}
    return transformers.MambaConfig(architectures=["MambaForCausalLM"], **(sizes | fields))


def test_a_scan_is_traced_as_torch_code_with_a_notice_that_says_how_it_runs() -> None:
    report = inspector.inspect(mamba(), recipe={"seq_len": 8})
    assert report.training is not None
    messages = [notice.message for notice in report.warnings if notice.code == "torch-fallback"]
    assert len(messages) == 1
    assert "MambaMixer: traced as transformers' own torch code" in messages[0]
    assert "16 times a pass" in messages[0]  # 2 layers of 8 positions
    assert "eager-attention" not in {notice.code for notice in report.warnings}  # nothing attends


def test_a_deep_scan_is_that_of_its_layers_event_by_event() -> None:
    deep, whole = (
        inspector.inspect(mamba(12), recipe={"seq_len": 6}, extrapolate=extrapolate) for extrapolate in (True, False)
    )
    assert deep.training is not None
    assert whole.training is not None
    assert deep.training.peak.breakdown == whole.training.peak.breakdown
    assert deep.training.peak_reserved_bytes == whole.training.peak_reserved_bytes


def test_a_step_of_more_events_than_can_be_worked_with_is_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("inspector.extrapolate.layers.MOST_EVENTS", 10_000)
    report = inspector.inspect(mamba(40), recipe={"seq_len": 8})
    assert report.training is None
    (message,) = [notice.message for notice in report.warnings if notice.code == "not-traced"]
    assert "no more than 10,000 can be worked with: use a shorter `seq_len`" in message


def test_kernels_of_packages_keep_what_their_source_keeps() -> None:
    """mamba_inner_fn keeps its inputs, the projections, the states of each 2,048 positions and the output."""
    config = mamba(hidden_size=64, num_hidden_layers=1)
    report = inspector.inspect(config, recipe={"seq_len": 64, "kernels": "hub"})
    torch_code = inspector.inspect(config, recipe={"seq_len": 64})
    assert report.training is not None
    assert torch_code.training is not None
    assert report.training.peak_allocated_bytes < torch_code.training.peak_allocated_bytes
    codes = {notice.code for notice in report.warnings}
    assert "kernels-assumed" in codes
    assert "torch-fallback" not in codes
    assert report.to_dict()["training"]["recipe"]["kernels"] == "hub"
    assert "kernels of scans" in str(report)


def test_kernels_are_refused_where_no_layer_has_them() -> None:
    llama = transformers.LlamaConfig(
        architectures=["LlamaForCausalLM"], hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32
    )
    with pytest.raises(inspector.UsageError, match="LlamaForCausalLM has no layers that `kernels` runs"):
        inspector.inspect(llama, recipe={"kernels": "hub"})


def test_the_kernel_of_a_scan_refuses_two_dtypes_as_the_real_one_does() -> None:
    """Norms of float32 weights make B float32 under autocast, beside inputs in bfloat16."""
    config = transformers.JambaConfig(
        architectures=["JambaForCausalLM"],
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=2,
        vocab_size=32,
        mamba_d_state=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        dtype="float32",
    )
    recipe = {"seq_len": 8, "kernels": "hub", "mixed_precision": "bf16"}
    with pytest.raises(inspector.UsageError, match="takes inputs, steps, B and gate of one dtype"):
        inspector.inspect(config, recipe=recipe)


def test_adapters_on_what_kernels_read_by_its_weight_are_refused_with_what_to_leave_out() -> None:
    lora = inspector.LoraOptions(r=4, targets="all-linear")
    with pytest.raises(inspector.UsageError, match=r'`exclude_targets=\["out_proj"\]`'):
        inspector.inspect(mamba(), peft=lora)
    rest = dataclasses.replace(lora, exclude_targets=["out_proj"])
    assert inspector.inspect(mamba(), peft=rest, recipe={"seq_len": 8}).training is not None


def test_a_kernel_passes_adapters_by_whose_layer_it_takes_the_weight_of() -> None:
    """`mamba_inner_fn` is given `x_proj.weight`, which is what a layer of PEFT has of its base."""
    lora = inspector.LoraOptions(r=4, targets=["in_proj", "x_proj"])
    report = inspector.inspect(mamba(1), peft=lora, recipe={"seq_len": 8, "kernels": "hub"})
    (idle,) = [notice for notice in report.warnings if notice.code == "no-gradient"]
    assert "x_proj" in idle.message
    assert "in_proj" not in idle.message


def test_kernels_are_measured_only_where_their_packages_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(inspector.UsageError, match="none of them is installed"):
        check_machine(inspector.Recipe(kernels="hub"))


def test_a_scan_of_more_events_than_a_trace_holds_is_refused_with_what_is_shorter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("inspector.trace.tracer._MOST_EVENTS", 500)
    report = inspector.inspect(mamba(), recipe={"seq_len": 32})
    (message,) = [notice.message for notice in report.warnings if notice.code == "not-traced"]
    assert 'use a shorter `seq_len`, or `kernels="hub"`' in message


@pytest.mark.filterwarnings("ignore")
def test_two_steps_of_recurrent_gemma_allocate_and_free_as_on_the_cpu() -> None:
    """Its layers keep the last state of a step until the next one, so that both steps are compared."""
    fields = {"num_key_value_heads": 1, "lru_width": 64, "attention_window_size": 8, "head_dim": 16}
    # The CPU copies what a convolution takes, and casts truth values that are multiplied.
    kernels = ("aten::_convolution", "aten::mul", "aten::add")
    SMALL["recurrent_gemma"] = Small(fields=fields)
    try:
        model, batch = build("cpu", "recurrent_gemma")
        optimizer = adamw(trained(model))
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            run_plain_steps(model, batch, optimizer, lambda _phase, _step: None, steps=2)
        values = {
            key: item for key, item in batch.items() if isinstance(item, torch.Tensor) and not item.is_floating_point()
        }
        meta = meta_step(lambda device: build(device, "recurrent_gemma"), adamw, values, steps=(1, 2))
    finally:
        del SMALL["recurrent_gemma"]
    assert_aligned(*profiled_events(recorded, kernels), meta)


@pytest.mark.parametrize(
    "config",
    [
        mamba(1),
        transformers.Mamba2Config(
            architectures=["Mamba2ForCausalLM"],
            hidden_size=32,
            num_heads=4,
            head_dim=16,
            n_groups=1,
            state_size=8,
            chunk_size=8,
            num_hidden_layers=1,
            vocab_size=32,
        ),
    ],
    ids=["mamba", "mamba-2"],
)
def test_kernels_run_in_blocks_that_are_checkpointed(config: Any) -> None:
    """What a checkpoint holds may be unpacked once."""
    recipe = {"seq_len": 16, "kernels": "hub", "gradient_checkpointing": True}
    assert inspector.inspect(config, recipe=recipe).training is not None
