"""The core names settings as Python does; the command line puts its options in their place."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path

import click
import pytest

import inspector
from inspector.cli.option_names import name_options
from inspector.cli.options import PARAMETERS
from inspector.records.recipe import Recipe
from tests.cli.running import SMALL, assert_refused, bundled_config, run, written

PACKAGE = Path(inspector.__file__).parent
# The stages whose messages name settings as Python does.
CORE = (
    "hardware",
    "measure",
    "memory",
    "model",
    "quantization",
    "records",
    "source",
    "trace",
    "extrapolate",
    "runtime",
)
OPTIONS = {
    option
    for parameter in PARAMETERS
    if isinstance(parameter, click.Option)
    for option in (*parameter.opts, *parameter.secondary_opts)
}


@pytest.mark.parametrize(
    ("message", "spelt"),
    [
        ("`batch_size` is 0", "--batch-size is 0"),
        ('use `attention="sdpa"`, or eager', "use --attention sdpa, or eager"),
        ("drop `autocast_adapter_dtype=False`.", "drop --no-autocast-adapter-dtype."),
        ("add `trust_remote_code=True`", "add --trust-remote-code"),
        ("`offline=False`", "without --offline"),
        ("add `peft=LoraOptions(r=16)`", "add --lora r=16"),
        ("drop `peft`", "drop --peft"),
        ('`target_modules="all-linear"`', "--targets all-linear"),
        ("name `modules_to_save`", "name --modules-to-save"),
        ('write `exclude_targets=["gate", "router"]`', "write --exclude-targets gate,router"),
        ("`model` is 3", "MODEL is 3"),
        ('`gpu` and `gpu_memory="24GiB"`', "--gpu and --gpu-memory 24GiB"),
        ("see `inspect gpus`, `no_setting` or `output`", "see `inspect gpus`, `no_setting` or `output`"),
        ("no backticks; a lone ` stays", "no backticks; a lone ` stays"),
    ],
)
def test_a_setting_in_backticks_becomes_the_option(message: str, spelt: str) -> None:
    assert name_options(message) == spelt


def test_every_field_of_a_recipe_has_an_option() -> None:
    """So that no message of the core reaches a user of the command line in Python's spelling."""
    for field in dataclasses.fields(Recipe):
        assert name_options(f"`{field.name}`") in OPTIONS


def texts_of(path: Path) -> list[str]:
    """Return the texts of a module that are no docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def test_no_message_of_the_core_names_an_option_of_the_command() -> None:
    """A user of a notebook has none; docstrings may speak of them."""
    naming = [
        (path.relative_to(PACKAGE).as_posix(), text)
        for folder in CORE
        for path in sorted((PACKAGE / folder).rglob("*.py"))
        for text in texts_of(path)
        if OPTIONS & set(re.findall(r"--[a-z][a-z-]+", text))
    ]
    assert naming == []


def test_an_error_names_the_option_on_the_command_line_and_the_argument_in_python() -> None:
    assert_refused(run(SMALL, "--offline", "--gpu", "t5"), 2, "--gpu 't5' is not in the catalogue")
    with pytest.raises(inspector.UsageError, match=r"^`gpu` 't5' is not in the catalogue"):
        inspector.inspect(SMALL, offline=True, gpu="t5")


def test_a_notice_names_the_option_in_every_format_and_the_argument_in_python(tmp_path: Path) -> None:
    config = bundled_config(SMALL)
    config.pop("torch_dtype", None)
    config.pop("dtype", None)
    model = written(tmp_path, config)
    command = (model, "--offline", "--count-only")
    warnings = json.loads(run(*command, "--json").out)["warnings"]
    assert any(item["message"].endswith("set it with --dtype.") for item in warnings)
    for format_ in ("text", "markdown"):
        shown = " ".join(run(*command, "--format", format_).out.replace("\\", "").split())
        assert "set it with --dtype." in shown
    report = inspector.inspect(model, offline=True, count_only=True)
    assert any(item.message.endswith("set it with `dtype`.") for item in report.warnings)


def test_a_comparison_names_the_option_too(tmp_path: Path) -> None:
    config = bundled_config(SMALL)
    config.pop("torch_dtype", None)
    config.pop("dtype", None)
    model = written(tmp_path, config)
    ran = run("compare", model, "--with", "--lora r=2", "--offline", "--count-only", "--json")
    messages = [item["message"] for item in json.loads(ran.out)["warnings"]]
    assert any(message.endswith("set it with --dtype.") for message in messages)
    assert not any("`dtype`" in message for message in messages)


def test_a_plan_names_the_option_in_what_is_refused() -> None:
    """A T4 runs no flash attention, and each row says what to use instead."""
    ran = run("plan", SMALL, "--offline", "--gpu", "t4", "--fit", "none", "--attention", "flash_attention_2", "--json")
    assert_refused(ran, 4, "use --attention sdpa")
