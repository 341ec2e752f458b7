"""Steps measured on a Tesla T4, held against the traced step: load, forward, backward and optimizer peaks to the byte.

Reserved memory is exact too with the transformers release that was measured (5.0.0). `RESERVED_TOLERANCE` names the
one row that differs under a later release.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import accelerate
import peft
import pytest
import torch
import transformers
from torch import nn
from transformers.integrations import sdpa_attention

from inspector.memory.timeline import fold
from inspector.source import catalogue
from inspector.trace.cuda_rules import cuda_rules
from inspector.trace.platform import Platform
from inspector.trace.step import plain_steps
from inspector.trace.tracer import Tracer
from inspector.training_records import Category, Phase

RECORD = json.loads((Path(__file__).parent / "lora_steps_t4.json").read_text(encoding="utf-8"))
T4 = Platform(compute_capability=(7, 5), torch_version=(2, 10))
# Exact with transformers 5.0.0, the release that was measured; 5.23 reserves 0.73 % less in this row. Which of its
# changes moves the blocks has not been found.
RESERVED_TOLERANCE = {("HuggingFaceTB/SmolLM2-1.7B", "sdpa"): 0.01}


def build(run: dict[str, Any]) -> peft.PeftModel:
    """Build the model of a run on meta as its harness did on the GPU."""
    files = catalogue.load(run["model"])
    assert files is not None
    config = transformers.AutoConfig.for_model(**files.config)
    with accelerate.init_empty_weights(include_buffers=True):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float16, attn_implementation=run["attention"]
        )
        model.tie_weights()
        model.config.use_cache = False
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
        adapter = peft.LoraConfig(
            r=32,
            lora_alpha=64,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            task_type="CAUSAL_LM",
        )
        attached = peft.get_peft_model(model, adapter, low_cpu_mem_usage=True)
    assert isinstance(attached, peft.PeftModel)
    return attached


def trained(model: nn.Module, *, trains: bool) -> list[nn.Parameter]:
    """Return the parameters that train, or those that do not."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad is trains]


@pytest.mark.parametrize("run", RECORD["runs"], ids=lambda run: f"{run['model'].partition('/')[2]} {run['attention']}")
@pytest.mark.filterwarnings("ignore:.*gradient.checkpointing.*:FutureWarning")
def test_every_peak_of_a_measured_step_is_predicted_to_the_byte(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The harness repeated K and V for grouped queries, which the efficient kernel does not take.
    monkeypatch.setattr(sdpa_attention, "use_gqa_in_sdpa", lambda *_: False)
    model = build(run)
    tracer = Tracer(T4)
    tracer.hold(trained(model, trains=False), Category.WEIGHTS)
    tracer.hold(trained(model, trains=True), Category.ADAPTER)
    tracer.hold(model.buffers(), Category.BUFFERS)
    optimizer = torch.optim.AdamW(trained(model, trains=True), foreach=True)
    with cuda_rules(T4, "efficient"), tracer:
        ids = torch.zeros(run["batch_size"], run["seq_len"], dtype=torch.int64, device=torch.device("meta"))
        tracer.hold([ids], Category.INPUTS)
        plain_steps(model, {"input_ids": ids, "labels": ids}, optimizer, tracer.enter, steps=2)
    timeline = fold(tracer.tape(), descending_addresses=True)
    peaks = {(phase.step, phase.name): phase for phase in timeline.phases}
    inputs = 512 * -(-8 * run["batch_size"] * run["seq_len"] // 512)
    assert peaks[0, Phase.LOAD].end_allocated_bytes - inputs == run["loaded_allocated_bytes"]
    assert peaks[2, Phase.FORWARD].peak_allocated_bytes == run["forward_peak_allocated_bytes"]
    assert peaks[2, Phase.BACKWARD].peak_allocated_bytes == run["backward_peak_allocated_bytes"]
    assert peaks[2, Phase.OPTIMIZER].peak_allocated_bytes == run["optimizer_peak_allocated_bytes"]
    tolerance = RESERVED_TOLERANCE.get((run["model"], run["attention"]), 0)
    assert abs(timeline.peak_reserved_bytes - run["peak_reserved_bytes"]) <= tolerance * run["peak_reserved_bytes"]
