"""`plan`, `compare` and `measure` for Python are the commands of the same name, with natural arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import inspector
from inspector.errors import InspectorError, UsageError
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from tests.cli.running import SMALL, run, written

from .arguments import LORA, SFTArguments, tiny_llama

pytestmark = pytest.mark.usefixtures("shared_answers")

SHORT: dict[str, Any] = {"seq_len": 16}


def test_a_plan_from_python_is_that_of_the_command(tmp_path: Path) -> None:
    model = written(tmp_path, tiny_llama().to_dict())
    plan = inspector.plan(model, gpu="4090", fit=None, recipe=SHORT, offline=True)
    printed = json.loads(
        run("plan", model, "--gpu", "4090", "--fit", "none", "--seq-len", "16", "--json", "--offline").out
    )
    assert [(row.options, row.total_bytes, row.fits) for row in plan.rows] == [
        (row["options"], row.get("total_bytes"), row.get("fits")) for row in printed["rows"]
    ]


def test_a_plan_varies_optimizer_and_checkpointing_whatever_the_recipe_says() -> None:
    few = {**SHORT, "attention": "eager"}
    plain = inspector.plan(tiny_llama(), gpu="4090", fit=(), recipe=few, quantization="none")
    varied = {"optimizer": "sgd", "optim_args": "momentum=0.9", "gradient_checkpointing": True}
    other = inspector.plan(tiny_llama(), gpu=["4090"], fit=[], recipe={**few, **varied}, quantization="none")
    assert other.rows == plain.rows


def test_a_plan_says_what_of_training_arguments_is_not_traced() -> None:
    arguments = SFTArguments(max_length=16, per_device_train_batch_size=1, torch_compile=True)
    plan = inspector.plan(tiny_llama(), gpu="4090", fit=None, recipe=arguments)
    assert plan.warnings[0].endswith("were not traced: torch_compile (either way).")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "one GPU"),
        ({"gpu": ["4090", "t4"]}, "one GPU"),
        ({"gpu": 4090}, "`gpu` is 4090"),
        ({"gpu": "4090", "fit": "rank"}, "`fit` rank is nothing that a plan searches"),
        ({"gpu": "4090", "fit": 3}, "`fit` is 3"),
        ({"gpu": "4090", "recipe": 3}, "`recipe` is 3"),
    ],
    ids=str,
)
def test_a_plan_of_what_cannot_be_planned_is_one_line(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        inspector.plan(tiny_llama(), **arguments)
    assert str(caught.value).isprintable()


def test_models_reports_requests_and_settings_are_compared_alike() -> None:
    """Three ways to say the same two recipes, and a report of each."""
    model = tiny_llama()
    shared: dict[str, Any] = {"recipe": SHORT, "offline": True}
    by_settings = inspector.compare({"full": {}, "lora": {"peft": LORA}}, model=model, **shared)
    reports = [inspector.inspect(model, advice=False, depth=0, peft=adapter, **shared) for adapter in (None, LORA)]
    by_reports = inspector.compare({"full": reports[0], "lora": reports[1].to_dict()})
    requests = [Request(model=model, peft=adapter, recipe=Recipe(**SHORT), offline=True) for adapter in (None, LORA)]
    by_requests = inspector.compare(dict(zip(("full", "lora"), requests, strict=True)))
    assert by_settings == by_reports == by_requests
    assert [recipe.name for recipe in by_settings.recipes] == ["full", "lora"]
    assert "parameters.trainable" in [figure.path for figure in by_settings.figures]


def test_things_without_a_name_are_called_as_their_model(tmp_path: Path) -> None:
    path = Path(written(tmp_path, tiny_llama().to_dict()))
    report = inspector.inspect(path, count_only=True, offline=True)
    comparison = inspector.compare([path, tiny_llama(), report], count_only=True, offline=True)
    assert [recipe.name for recipe in comparison.recipes] == [str(path), "LlamaConfig", report.model.id]


def test_a_comparison_says_of_which_recipe_a_setting_was_not_traced() -> None:
    arguments = SFTArguments(max_length=16, torch_compile=True)
    comparison = inspector.compare([{}, {"recipe": arguments}], model=tiny_llama(), recipe=SHORT)
    assert comparison.warnings[0].recipes == ("B",)
    assert comparison.warnings[0].message.endswith("torch_compile (either way).")


@pytest.mark.parametrize(
    ("recipes", "settings", "says"),
    [
        ("gpt2", {}, "`recipes` is 'gpt2' "),
        (3, {}, "`recipes` is 3 "),
        ({"schema": "inspector/1"}, {}, "`recipes` is of type 'dict'"),
        ([], {}, "2 to 8"),
        ([tiny_llama()], {}, "2 to 8"),
        ([tiny_llama()] * 9, {"count_only": True}, "2 to 8"),
        ([{}, {}], {}, "without a model; add `model`"),
        ([{"gpuu": "t4"}, {}], {}, "no setting 'gpuu'; did you mean gpu"),
        ([tiny_llama()] * 2, {"depth": 3}, "no argument 'depth'"),
        ([{"schema": "inspector/1"}] * 2, {"gpu": "t4"}, "drop `gpu`"),
        ([{"schema": "inspector/1"}] * 2, {}, "no sound report"),
        ([{"schema": 1}] * 2, {}, "no report of schema"),
        ([tiny_llama(), 3], {"count_only": True}, "`model` is 3"),
    ],
)
def test_what_cannot_be_compared_is_one_line(recipes: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InspectorError, match=says) as caught:
        inspector.compare(recipes, **settings)
    assert str(caught.value).isprintable()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure on")
def test_measuring_without_a_gpu_is_refused_again_and_again() -> None:
    """The package `inspector.measure` is loaded by the first call, and must not take the place of the function."""
    for _ in range(2):
        with pytest.raises(UsageError, match="measure runs the step on a CUDA GPU"):
            inspector.measure(tiny_llama(), recipe=SHORT)


@pytest.mark.parametrize("arguments", [{"recipe": 3}, {"dtype": 3}, {"peft": LORA, "offline": 3}], ids=str)
def test_measuring_checks_its_arguments_before_anything_else(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^`(recipe|dtype|offline)` is 3"):
        inspector.measure(tiny_llama(), **arguments)


def test_printed_records_are_the_text_of_the_command() -> None:
    report = inspector.inspect(SMALL, gpu="a100-80gb", advice=False, offline=True)
    *shown, _more = run(SMALL, "--gpu", "a100-80gb", "--no-advice", "--offline").out.splitlines()
    told, rest = str(report).splitlines()[: len(shown)], str(report).splitlines()[len(shown) :]
    assert told == shown
    assert "torch" in rest[0], "the versions stand in the place of the options"
    plan = inspector.plan(
        SMALL, gpu="a100-80gb", peft=inspector.LoraOptions(r=8), quantization="none", fit=None, offline=True
    )
    few = ("--lora", "r=8", "--quantization", "none", "--fit", "none")
    assert str(plan) == run("plan", SMALL, "--gpu", "a100-80gb", *few, "--offline").out.rstrip("\n")
    both = inspector.compare([SMALL, SMALL], count_only=True, offline=True)
    assert str(both).startswith("2 recipes side by side")
