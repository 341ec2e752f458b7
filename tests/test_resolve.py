"""What a recipe may ask for, and where the allocator's settings come from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.utils.checkpoint
import transformers

from inspector.errors import UsageError
from inspector.memory.allocator.settings import MIB, AllocatorSettings
from inspector.memory.textbook import list_activation_rules
from inspector.records.memory import BlockShape
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.source import ServedFrom, SourceFiles
from inspector.resolve import find_allocator_settings, resolve_run, settle_recipe


def test_a_reentrant_setting_without_gradient_checkpointing_is_refused() -> None:
    with pytest.raises(UsageError, match="add `gradient_checkpointing`"):
        settle_recipe(Recipe(use_reentrant=True))
    assert settle_recipe(Recipe(use_reentrant=True, gradient_checkpointing=True)).use_reentrant


@pytest.mark.parametrize(
    ("asked", "checkpointing", "filled"), [(None, False, False), (True, False, True), (True, True, False)]
)
def test_the_cache_is_off_as_in_trainer_and_never_filled_by_blocks_that_run_twice(
    asked: bool | None, checkpointing: bool, filled: bool
) -> None:
    assert settle_recipe(Recipe(use_cache=asked, gradient_checkpointing=checkpointing)).use_cache is filled


@pytest.mark.parametrize(
    ("asked", "environment", "split_mib"),
    [
        ("max_split_size_mb:64", {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:32"}, 64),
        (None, {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:32", "PYTORCH_ALLOC_CONF": "max_split_size_mb:48"}, 32),
        (None, {"PYTORCH_ALLOC_CONF": "max_split_size_mb:48"}, 48),
    ],
)
def test_what_is_asked_for_goes_before_the_environment_and_the_name_for_cuda_before_the_general_one(
    asked: str | None, environment: dict[str, str], split_mib: int
) -> None:
    run = resolve_run(Request(model="gpt2", recipe=Recipe(alloc_conf=asked)), None, environment)
    assert run.allocator.max_split_bytes == split_mib * MIB
    assert run.recipe.alloc_conf == f"max_split_size_mb:{split_mib}"


@pytest.mark.parametrize("text", [None, "", "expandable_segments:False", "garbage_collection_threshold:0.8"])
def test_allocator_settings_equal_to_the_defaults_are_left_out_of_the_recipe(text: str | None) -> None:
    run = resolve_run(Request(model="gpt2", recipe=Recipe(alloc_conf=text)), None, {})
    assert run.allocator == AllocatorSettings()
    assert run.recipe.alloc_conf is None


def test_an_error_names_where_a_bad_allocator_setting_stands() -> None:
    with pytest.raises(UsageError, match=r"^PYTORCH_ALLOC_CONF: unknown allocator setting 'x'"):
        find_allocator_settings(None, {"PYTORCH_ALLOC_CONF": "x:1"})
    with pytest.raises(UsageError, match=r"^`alloc_conf`: .* at least 20, not 1"):
        find_allocator_settings("max_split_size_mb:1", {"PYTORCH_ALLOC_CONF": "x:1"})


BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}


@pytest.mark.parametrize(
    ("quantization", "declared", "asked", "settled"),
    [
        (None, None, {}, (False, False)),
        ("nf4", None, {}, (True, True)),
        ("int8", None, {}, (True, True)),
        ("none", BNB, {}, (False, False)),
        (None, BNB, {}, (True, True)),
        (None, {"quant_method": "gptq"}, {}, (False, False)),
        ("nf4", None, {"gradient_checkpointing": True}, (True, False)),
        ("nf4", None, {"gradient_checkpointing": False}, (False, False)),
        ("nf4", None, {"use_reentrant": False}, (True, False)),
        (None, None, {"gradient_checkpointing": True, "use_reentrant": True}, (True, True)),
    ],
)
def test_checkpointing_is_as_a_trainer_finds_it_after_the_preparation_of_packed_weights(
    quantization: str | None, declared: Any, asked: dict[str, Any], settled: tuple[bool, bool]
) -> None:
    run = resolve_run(Request(model="gpt2", quantization=quantization, recipe=Recipe(**asked)), None, {})
    config = {} if declared is None else {"quantization_config": declared}
    run = dataclasses.replace(run, files=SourceFiles(id="gpt2", served_from=ServedFrom.LOCAL, config=config))
    assert (run.recipe.gradient_checkpointing, run.recipe.use_reentrant) == settled


def test_a_forward_pass_on_packed_weights_is_not_checkpointed() -> None:
    assert not resolve_run(Request(model="gpt2", quantization="nf4", workload="forward"), None, {}).recipe.use_reentrant


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
def test_the_preparation_switches_reentrant_checkpointing_on_and_a_trainer_leaves_it(tmp_path: Path) -> None:
    """PEFT's function and transformers' Trainer themselves, on a small model that says that it is in 4 bits."""
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32
    )
    model: Any = transformers.LlamaForCausalLM(config)
    model.is_loaded_in_4bit = True
    prepared: Any = peft.get_peft_model(peft.prepare_model_for_kbit_training(model), peft.LoraConfig(r=2))
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    transformers.Trainer(prepared, arguments)
    layer = prepared.get_base_model().model.layers[0]
    assert layer.gradient_checkpointing
    assert "use_reentrant" not in layer._gradient_checkpointing_func.keywords
    with pytest.warns(UserWarning, match="use_reentrant parameter should be"):  # torch then takes True
        torch.utils.checkpoint.checkpoint(torch.sin, torch.zeros(1, requires_grad=True))


def test_the_default_optimizer_is_that_of_the_installed_transformers(tmp_path: Path) -> None:
    assert Recipe().optimizer == transformers.TrainingArguments(output_dir=str(tmp_path)).optim


def test_a_recipe_says_which_of_its_settings_are_as_they_are_by_default() -> None:
    run = resolve_run(Request(model="gpt2", recipe=Recipe(batch_size=2, optimizer="sgd")), None, {})
    assert "seq_len" in run.list_defaults()
    assert not {"batch_size", "optimizer"} & set(run.list_defaults())


SHAPE = BlockShape(hidden_size=100, layer_count=3, head_count=4)


def test_rules_for_activations_without_the_attention_matrix() -> None:
    rules = list_activation_rules(Recipe(batch_size=2, seq_len=10), SHAPE, 250_000)
    # 34 x 2 x 10 x 100 x 3 = 204,000 and 22 x 2 x 10 x 100 x 3 = 132,000.
    assert [(rule.formula, rule.bytes) for rule in rules] == [("34·B·S·H·L", 204_000), ("22·B·S·H·L", 132_000)]
    assert [sum(item.bytes for item in rule.differences) for rule in rules] == [46_000, 118_000]


@pytest.mark.parametrize("recipe", [Recipe(attention="eager", seq_len=10), Recipe(sdpa_backend="math", seq_len=10)])
def test_rules_for_activations_with_the_attention_matrix(recipe: Recipe) -> None:
    rules = list_activation_rules(recipe, SHAPE, 0)
    # 34 x 10 x 100 x 3 + 5 x 4 x 10 x 10 x 3 = 102,000 + 6,000; 22 x 10 x 100 x 3 + 2 x 10 x 10 x 3 x 2 = 67,200.
    assert [rule.bytes for rule in rules] == [108_000, 67_200]


def test_no_rule_describes_checkpointing() -> None:
    assert list_activation_rules(Recipe(gradient_checkpointing=True), SHAPE, 0) == ()
