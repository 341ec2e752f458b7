"""axolotl's LoRA kernels allocate and free what its own code does, event by event.

That is skipped where axolotl is not installed: its wheel wants Python 3.12 and bitsandbytes, and no GPU.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import peft
import pytest
import torch
import transformers

from inspector.memory.timeline import fold
from inspector.model.build import count_model
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Preparation, Request
from inspector.records.steps.losses import LoraKernel
from inspector.workloads.training.lora_kernels.layers import explain_left_out, settle_lora_kernels
from tests.workloads.real_axolotl import use_axolotl
from tests.workloads.real_losses import A100
from tests.workloads.test_quantized import TINY_LLAMA, files_of
from tests.workloads.tracing import trace

ALL = ("mlp", "qkv", "o")
HALF: dict[str, Any] = {"batch_size": 2, "seq_len": 64, "mixed_precision": "bf16"}
CHECKPOINTED = {"gradient_checkpointing": True, "use_reentrant": False}
# How a model is made, its recipe, and the kernels.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "Llama, checkpointed": ({"name": "llama"}, {**HALF, **CHECKPOINTED}, ALL),
    "Qwen2 with biases, dropout": ({"name": "qwen2", "dropout": 0.05}, HALF, ALL),
    "Qwen3 with norms of heads, accumulation": (
        {"name": "qwen3", "head_dim": 16},
        {"seq_len": 32, "gradient_accumulation": 2},
        ALL,
    ),
    "Gemma with GELU": ({"name": "gemma", "head_dim": 16}, HALF, ALL),
    "an adapter in bfloat16": ({"name": "llama", "cast": torch.bfloat16}, HALF, ALL),
    "the MLP alone": ({"name": "llama"}, HALF, ("mlp",)),
    "attention alone, dropout": ({"name": "llama", "dropout": 0.1}, {**HALF, **CHECKPOINTED}, ("qkv", "o")),
    "an adapter on two projections": ({"name": "llama", "targets": ["q_proj", "o_proj"]}, HALF, ALL),
    "nf4, packed twice": ({"nested": True}, {**HALF, **CHECKPOINTED}, ALL),
    "nf4, packed once": ({"nested": False}, HALF, ALL),
}


def build(made: dict[str, Any]) -> Any:
    """Return a small model with an adapter on meta."""
    if "nested" in made:
        request = Request(
            model=TINY_LLAMA,
            quantization="nf4",
            double_quant=made["nested"],
            peft=LoraOptions(r=4, targets="all-linear"),
            preparation=Preparation.AXOLOTL,
        )
        return count_model(request, files_of(TINY_LLAMA, num_hidden_layers=2))[1]
    fields = {name: value for name, value in made.items() if name not in ("name", "dropout", "cast", "targets")}
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    with torch.device("meta"):
        config = transformers.AutoConfig.for_model(made["name"], **sizes, **heads, **fields)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        targets = made.get("targets", "all-linear")
        lora = peft.LoraConfig(
            r=4, target_modules=targets, lora_dropout=made.get("dropout", 0.0), task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(model, lora)
    for parameter in model.parameters():
        if "cast" in made and parameter.requires_grad:
            parameter.data = parameter.data.to(made["cast"])
    return model


def list_events(model: Any, recipe: Recipe) -> list[tuple[str, int, str, int]]:
    """Return what a step allocates and frees, by phase and step."""
    return [(event.kind.value, event.bytes, event.phase.value, event.step) for event in trace(model, recipe, A100)]


def trace_axolotl(case: str) -> list[tuple[str, int, str, int]]:
    """Return the same where axolotl has patched the model."""
    made, settings, kernels = CASES[case]
    model = build(made)
    with use_axolotl(model.model if "nested" in made else model, kernels):
        return list_events(model, Recipe(**settings))


def trace_stand_in(case: str) -> list[tuple[str, int, str, int]]:
    """Return the same of the stand-in."""
    made, settings, kernels = CASES[case]
    return list_events(build(made), Recipe(**settings, lora_kernels=kernels))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*gradient.checkpointing.*:FutureWarning")
def test_axolotls_lora_kernels_allocate_and_free_what_axolotl_does(case: str) -> None:
    pytest.importorskip("axolotl.kernels.lora")
    assert trace_stand_in(case) == trace_axolotl(case)


def test_the_kernels_keep_less_than_autograd_where_nothing_is_computed_again() -> None:
    recipe = Recipe(**{**HALF, "seq_len": 2048})
    kernels = dataclasses.replace(recipe, lora_kernels=ALL)
    with_kernels, without = (fold(trace(build({"name": "llama"}), item, A100)) for item in (kernels, recipe))
    assert with_kernels.peak_allocated_bytes < without.peak_allocated_bytes


def test_kernels_that_axolotl_has_none_for_are_left_out_and_named() -> None:
    relu = build({"name": "llama", "hidden_act": "relu"})
    assert settle_lora_kernels(relu, tuple(LoraKernel)) == (LoraKernel.QKV, LoraKernel.O)
    assert list(explain_left_out(relu, (LoraKernel.MLP,))) == ["mlp: axolotl has none for the activation relu"]
    two = build({"name": "llama", "targets": ["q_proj", "o_proj"]})
    assert settle_lora_kernels(two, tuple(LoraKernel)) == (LoraKernel.O,)
    phi = build({"name": "phi3", "pad_token_id": 0})
    assert settle_lora_kernels(phi, tuple(LoraKernel)) == ()
    assert next(explain_left_out(phi, tuple(LoraKernel))).startswith("qkv: axolotl refuses it for Phi3Attention")
