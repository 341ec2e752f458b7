"""The tables know the fields of the real packages: of transformers always, of the others where they are installed."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import pytest
from transformers import TrainingArguments

from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.training_files.fields import Framework
from inspector.training_files.frameworks.axolotl import AXOLOTL
from inspector.training_files.frameworks.llamafactory import LLAMAFACTORY
from inspector.training_files.frameworks.shared import OF_TRAINING_ARGUMENTS
from inspector.training_files.frameworks.trl import TRL
from inspector.training_files.recognise import FRAMEWORKS

from .reference_page import PAGE, make_page

# What a table's `becomes` may name beside fields of a Request and its Recipe: what settles them.
OF_NO_RECORD = {"stage", "plugins"}
CLASSES = {
    "trl": ["trl:SFTConfig", "trl:DPOConfig", "trl:GRPOConfig", "trl:KTOConfig", "trl:RewardConfig", "trl:ModelConfig"],
    "llamafactory": [
        "llamafactory.hparams:ModelArguments",
        "llamafactory.hparams:DataArguments",
        "llamafactory.hparams:FinetuningArguments",
    ],
}


@pytest.mark.parametrize("framework", FRAMEWORKS.values(), ids=FRAMEWORKS)
def test_each_line_of_a_table_sets_a_field_or_says_in_which_direction_it_is_missing(framework: Framework) -> None:
    known = {item.name for kind in (Request, Recipe) for item in dataclasses.fields(kind)} | OF_NO_RECORD
    for item in framework.fields:
        assert item.becomes is not None or item.effect is not None, item.name
        assert (item.becomes or "peft").partition(".")[0] in known, item.name
        assert bool(item.why) == (item.effect is not None), item.name


@pytest.mark.parametrize("framework", FRAMEWORKS.values(), ids=FRAMEWORKS)
def test_no_name_stands_in_a_table_twice(framework: Framework) -> None:
    names = [name for item in framework.fields for name in (item.name, *item.aliases)]
    assert len(set(names)) == len(names)
    assert set(names) & framework.others == set()


def test_the_fields_and_defaults_of_training_arguments_are_those_of_the_installed_transformers() -> None:
    real = {item.name: item for item in dataclasses.fields(TrainingArguments)}
    assert {name for name in real if name not in TRL.index() and name not in TRL.others} == set()
    for item in OF_TRAINING_ARGUMENTS:
        default = item.find_default("99")
        if item.name in real and default is not None and item.name != "optim":  # which follows torch
            assert real[item.name].default in (default, None), item.name


@pytest.mark.parametrize(("package", "framework"), [("trl", TRL), ("llamafactory", LLAMAFACTORY)])
def test_every_field_of_an_installed_framework_is_known(package: str, framework: Framework) -> None:
    """No object is made: that would ask for a GPU."""
    pytest.importorskip(package)
    known = set(framework.index()) | framework.others
    missing: dict[str, list[str]] = {}
    for where in CLASSES[package]:
        module, _, name = where.partition(":")
        kind: Any = getattr(importlib.import_module(module), name, None)
        if kind is not None:
            missing[name] = [item.name for item in dataclasses.fields(kind) if item.name not in known]
    assert {name: names for name, names in missing.items() if names} == {}


def test_every_field_of_an_installed_axolotl_is_known() -> None:
    pytest.importorskip("axolotl")
    config = importlib.import_module("axolotl.utils.schemas.config").AxolotlInputConfig
    known = set(AXOLOTL.index()) | AXOLOTL.others
    assert [name for name in config.model_fields if name not in known] == []


def test_the_reference_page_has_the_tables_as_they_are() -> None:
    """`python -m tests.training_files.reference_page` writes it."""
    assert PAGE.read_text(encoding="utf-8") == make_page()
