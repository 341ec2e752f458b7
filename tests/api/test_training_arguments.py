"""A trainer's arguments become a recipe, field by field, and what of them is not traced is said."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import transformers

import inspector
from inspector.errors import UsageError
from inspector.records.recipe import Recipe
from inspector.training_arguments import read_training_arguments

from .arguments import LORA, DPOArguments, SFTArguments, tiny_llama


def arguments(folder: Path, **fields: Any) -> transformers.TrainingArguments:
    """Return TrainingArguments as a machine without a GPU makes them; some of the names are deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return transformers.TrainingArguments(output_dir=str(folder), use_cpu=True, report_to=[], **fields)


@pytest.mark.parametrize(
    ("fields", "recipe"),
    [
        ({}, {"batch_size": 8, "optimizer": "adamw_torch_fused"}),
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}, {"gradient_accumulation": 3}),
        ({"bf16": True}, {"mixed_precision": "bf16"}),
        ({"optim": "sgd", "optim_args": "momentum=0.9"}, {"optimizer": "sgd", "optim_args": "momentum=0.9"}),
        ({"optim": "adamw_bnb_8bit", "max_grad_norm": 0.3}, {"optimizer": "adamw_bnb_8bit", "max_grad_norm": 0.3}),
        ({"gradient_checkpointing": True}, {"gradient_checkpointing": True, "use_reentrant": None}),
        ({"gradient_checkpointing": False}, {"gradient_checkpointing": None}),  # a Trainer leaves it as it finds it
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            {"gradient_checkpointing": True, "use_reentrant": True},
        ),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, {"use_reentrant": None}),
        ({"neftune_noise_alpha": 5.0}, {"neftune": 5.0}),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"every_n_layers": 2, "offload": True}},
            {"checkpoint_every": 2, "offload": "checkpoints"},
        ),
        ({"weight_decay": 0.1, "learning_rate": 1.0, "num_train_epochs": 9}, {"loop": "trainer"}),
    ],
    ids=str,
)
def test_training_arguments_become_the_recipe_of_their_step(
    fields: dict[str, Any], recipe: dict[str, Any], tmp_path: Path
) -> None:
    made, notices = read_training_arguments(arguments(tmp_path, **fields))
    wanted = {"batch_size": fields.get("per_device_train_batch_size", 8), "use_cache": False, **recipe}
    assert {name: getattr(made, name) for name in wanted} == wanted
    assert [notice.code for notice in notices] == ["seq-len-assumed"]


def test_a_report_of_training_arguments_is_that_of_the_recipe_which_they_mean(tmp_path: Path) -> None:
    given = arguments(tmp_path, per_device_train_batch_size=2, optim="sgd", gradient_checkpointing=True)
    recipe = Recipe(batch_size=2, optimizer="sgd", gradient_checkpointing=True)
    by_arguments = inspector.inspect(tiny_llama(), peft=LORA, recipe=given).to_dict()
    by_recipe = inspector.inspect(tiny_llama(), peft=LORA, recipe=recipe).to_dict()
    said = by_arguments.pop("warnings")
    assert said[0]["code"] == "seq-len-assumed"
    assert said[1:] == by_recipe.pop("warnings")
    assert by_arguments == by_recipe


def test_nothing_of_the_gpu_is_asked_and_the_length_of_an_sft_config_is_taken() -> None:
    """Every property of `SFTArguments` raises, as `device` does where the GPU is elsewhere."""
    report = inspector.inspect(tiny_llama(), recipe=SFTArguments(max_length=48, per_device_train_batch_size=2))
    assert report.training is not None
    recipe = report.training.recipe
    assert (recipe.batch_size, recipe.seq_len, recipe.gradient_checkpointing) == (2, 48, True)
    assert report.warnings == ()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (SFTArguments(torch_compile=True, use_liger_kernel=True), ["torch_compile", "use_liger_kernel"]),
        (SFTArguments(torch_compile=True, fsdp=["full_shard"]), ["torch_compile", "fsdp"]),
        (SFTArguments(deepspeed="zero3.json", torch_compile=True), ["deepspeed", "torch_compile"]),
        (DPOArguments(), ["beta"]),
        (
            SFTArguments(gradient_checkpointing_kwargs={"determinism_check": "none"}),
            ["gradient_checkpointing_kwargs['determinism_check']"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_changes_memory_and_is_not_traced_is_named(given: Any, names: list[str]) -> None:
    (notice,) = read_training_arguments(given)[1]
    assert notice.code == "arguments-not-traced"
    assert all(name in notice.message for name in names)
    assert type(given).__name__ in notice.message


def test_a_setting_without_a_truth_value_is_named_too() -> None:
    class Odd:
        def __bool__(self) -> bool:
            raise ValueError("neither")

    (notice,) = read_training_arguments(SFTArguments(parallelism_config=Odd()))[1]
    assert "parallelism_config" in notice.message


def test_no_norm_is_no_clipping() -> None:
    assert read_training_arguments(SFTArguments(max_grad_norm=None))[0].max_grad_norm == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bf16": True, "fp16": True}, "bf16 and fp16 are both on"),
        ({"optim": "galore_adamw"}, "of the package galore_torch"),
        ({"per_device_train_batch_size": 0}, "give an integer of at least 1"),
        ({"gradient_accumulation_steps": "4"}, "give an integer of at least 1"),
    ],
)
def test_values_that_no_recipe_has_are_refused_with_the_name_of_the_class(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=rf"^`recipe` \(SFTArguments\): .*{says}"):
        inspector.inspect(tiny_llama(), recipe=dataclasses.replace(SFTArguments(), **changes))


@pytest.mark.parametrize("given", [SFTArguments, transformers.TrainingArguments, object(), Recipe, "bf16", 3])
def test_what_is_no_recipe_is_refused(given: object) -> None:
    """The class of arguments instead of an instance among others."""
    with pytest.raises(UsageError, match=r"^`recipe` is .*; give a Recipe, a mapping of its fields, or Tra"):
        inspector.inspect(tiny_llama(), recipe=given)
