"""Names of a PEFT model, held against those that the base model has before PEFT."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

import inspector
from inspector.model.adapter.peft_names import find_owner, list_base_modules, strip_wrappers
from tests.model.tiny import llama

ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"peft_type": "LORA", "target_modules": ["q_proj", "down_proj"]},
    "several parameters of one module": {
        "peft_type": "LORA",
        "target_modules": [],
        "target_parameters": ["self_attn.q_proj.weight", "mlp.up_proj.weight"],
    },
    "a prompt, which has one wrapper less": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3},
}


def build() -> nn.Module:
    """Return a tiny model with a module whose name begins as PEFT's own does."""
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(llama())
        model.model.base_layer_norm = nn.LayerNorm(4)
    return model


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_parameter_of_the_base_has_its_own_name_again(adapter: str) -> None:
    names = [name for name, _ in build().named_parameters()]
    model = peft.get_peft_model(
        build(),
        peft.PeftConfig.from_peft_type(task_type="CAUSAL_LM", **ADAPTERS[adapter]),
        low_cpu_mem_usage=True,
    )
    found = [strip_wrappers(model, name) for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert found == names
    owners = [find_owner(model, name) for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert owners == [name.rpartition(".")[0] for name in names]


ADDED_TO_MODULES = {
    **ADAPTERS,
    "copies and rows": {
        "peft_type": "LORA",
        "target_modules": ["q_proj"],
        "modules_to_save": ["mlp"],
        "trainable_token_indices": [1],
    },
}


@pytest.mark.parametrize("adapter", ADDED_TO_MODULES)
def test_the_modules_of_the_base_are_listed_without_what_an_adapter_adds(adapter: str) -> None:
    modules = {name: type(module) for name, module in build().named_modules() if name}
    config = peft.PeftConfig.from_peft_type(task_type="CAUSAL_LM", **ADDED_TO_MODULES[adapter])
    model = peft.get_peft_model(build(), config, low_cpu_mem_usage=True)
    assert {name: type(module) for name, module in list_base_modules(model).items()} == modules
    assert {name: type(module) for name, module in list_base_modules(build()).items()} == modules


def test_a_model_without_peft_keeps_names_that_look_wrapped() -> None:
    model = build()
    assert strip_wrappers(model, "base_model.model.weight") == "base_model.model.weight"


def test_what_a_prompt_is_put_before_has_the_names_of_the_base_in_a_report() -> None:
    """Weights and activations of one module stand in one row of the memory table."""
    prompt = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}
    report = inspector.inspect(llama(), peft=prompt, recipe=inspector.Recipe(seq_len=16))
    assert report.training is not None
    names = {module.name for module in report.training.top_modules if module.name}
    modules = {name for name, _ in transformers.LlamaForCausalLM(llama()).named_modules()}
    assert {name for name in names if not name.startswith("prompt_encoder.")} <= modules
