"""Steps under autocast that torch's CUDA host code ran, held against the traced step: every peak of every phase.

The figures come from a stand-in for the CUDA runtime, not from a GPU (`source` in the record says how): what autocast
casts, what its cache keeps and what the scaler takes is host code.
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

from inspector.memory.timeline import fold
from inspector.source import catalogue
from inspector.trace.platform import Platform
from inspector.trace.training import resolved, trace_training
from inspector.training_records import Phase, Recipe

RECORD = json.loads((Path(__file__).parent / "stand_in" / "autocast.json").read_text(encoding="utf-8"))


def build(run: dict[str, Any], recipe: Recipe) -> Any:
    """Build the model of a run on meta as it was built there."""
    files = catalogue.load(run["model"])
    assert files is not None
    config = transformers.AutoConfig.for_model(**files.config)
    if "layers" in run:
        text = config.get_text_config()
        text.num_hidden_layers = run["layers"]
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[: run["layers"]]
    auto: Any = getattr(transformers, run.get("class", "AutoModelForCausalLM"))
    with accelerate.init_empty_weights(include_buffers=True):
        model = auto.from_config(config, dtype=getattr(torch, run["dtype"]), attn_implementation=recipe.attention)
        model.tie_weights()
        if "lora" not in run:
            return model
        if recipe.gradient_checkpointing:
            model.enable_input_require_grads()
        adapter = peft.LoraConfig(task_type="CAUSAL_LM", **run["lora"])
        return peft.get_peft_model(model, adapter, low_cpu_mem_usage=True)


def cases() -> list[Any]:
    """Return every run on every platform."""
    return [
        pytest.param(run, platform, id=f"{number} {run['model'].partition('/')[2]} {platform['gpu']}")
        for number, run in enumerate(RECORD["runs"])
        for platform in RECORD["platforms"]
    ]


@pytest.mark.parametrize(("run", "platform"), cases())
@pytest.mark.filterwarnings("ignore:.*gradient.checkpointing.*:FutureWarning")
def test_every_peak_under_autocast_is_predicted_to_the_byte(run: dict[str, Any], platform: dict[str, Any]) -> None:
    major, minor = (int(part) for part in platform["torch"].split(".")[:2])
    traced_for = Platform(
        compute_capability=tuple(platform["compute_capability"]),
        multiprocessors=platform["multiprocessors"],
        threads_per_multiprocessor=platform["threads_per_multiprocessor"],
        torch_version=(major, minor),
    )
    recipe = Recipe(**run["recipe"])
    model = build(run, recipe)
    timeline = fold(trace_training(model, resolved(model, recipe), traced_for))
    phases = {(phase.step, phase.name): phase for phase in timeline.phases}
    for step, name, peak_allocated, peak_reserved, end_allocated in run["measured"][platform["gpu"]]["phases"]:
        phase = phases[step, Phase(name)]
        assert phase.peak_allocated_bytes == peak_allocated, (step, name)
        assert phase.peak_reserved_bytes == peak_reserved, (step, name)
        assert phase.end_allocated_bytes == end_allocated, (step, name)
