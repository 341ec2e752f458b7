"""A trainer's arguments become a recipe, field by field, and what of them is not traced is said."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import transformers

import inspector
from inspector.arguments.training_arguments import read_training_arguments
from inspector.errors import UsageError
from inspector.records.recipe import Recipe

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


def test_ligers_kernels_are_taken_with_their_loss_or_without_it() -> None:
    recipe = read_training_arguments(SFTArguments(use_liger_kernel=True))[0]
    assert (recipe.liger, recipe.loss) == (("rope", "rms_norm", "swiglu", "geglu"), "liger")


@pytest.mark.parametrize(
    ("version", "liger", "loss"),
    [("1.16.0", False, "fused"), ("1.16.0", True, "fused"), ("1.10.0", False, "chunked"), ("1.10.0", True, "liger")],
)
def test_an_sft_config_of_trl_has_the_loss_and_the_mask_of_its_version(
    version: str, liger: bool, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = dataclasses.make_dataclass("SFTConfig", [("loss_type", str | None, None)], bases=(SFTArguments,))
    kind.__module__ = "trl.trainer.sft_config"
    monkeypatch.setattr("inspector.arguments.training_arguments.metadata.version", lambda _package: version)
    recipe = read_training_arguments(kind(use_liger_kernel=liger))[0]
    assert (recipe.loss, recipe.attention_mask, bool(recipe.liger)) == (loss, True, liger)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (SFTArguments(torch_compile=True), ["torch_compile"]),
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
        ({"optim": "galore_adafactor"}, "of the package galore_torch"),
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


@dataclasses.dataclass
class DPOConfig(SFTArguments):
    """What the arguments of TRL's DPOTrainer have beside that, with their defaults."""

    beta: float = 0.1
    loss_type: list[str] = dataclasses.field(default_factory=lambda: ["sigmoid"])
    precompute_ref_log_probs: bool = False


@dataclasses.dataclass
class GRPOConfig(SFTArguments):
    """What those of its GRPOTrainer have."""

    max_length: int | None = None
    beta: float = 0.04
    num_generations: int = 8
    max_completion_length: int = 256
    use_vllm: bool = True
    vllm_mode: str = "colocate"
    vllm_gpu_memory_utilization: float = 0.3


def test_arguments_of_a_preference_trainer_are_its_step() -> None:
    recipe, notices = read_training_arguments(DPOConfig())
    assert (recipe.stage, recipe.loss, recipe.reference) == ("dpo", "fused", None)
    assert notices == ()
    assert read_training_arguments(DPOConfig(precompute_ref_log_probs=True))[0].reference == "none"


@pytest.mark.parametrize(("has_adapter", "reference"), [(True, "adapter"), (False, "model")])
def test_arguments_of_grpo_say_its_rows_its_reference_and_its_engine(has_adapter: bool, reference: str) -> None:
    recipe, notices = read_training_arguments(GRPOConfig(), has_adapter=has_adapter)
    assert (recipe.stage, recipe.seq_len, recipe.prompt_len, recipe.num_generations) == ("grpo", 768, 512, 8)
    assert (recipe.vllm_share, recipe.reference) == (0.3, reference)
    assert notices == ()
