"""The tables know the fields of the real packages: of transformers always, of the others where they are installed."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.training_files import frameworks
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


@pytest.mark.parametrize(("package", "framework"), [("trl", TRL)])
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


def list_fields(folder: Path, pattern: str, kinds: tuple[str, ...]) -> set[str]:
    """Return the annotated fields of the classes of a package, which is read and not imported."""
    found = set()
    for path in folder.glob(pattern):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith(kinds):
                own = (item.target for item in node.body if isinstance(item, ast.AnnAssign))
                found |= {item.id for item in own if isinstance(item, ast.Name)}
    return found


@pytest.mark.parametrize(
    ("package", "framework", "pattern", "kinds"),
    [
        ("axolotl", AXOLOTL, "integrations/**/args.py", ("Args",)),
        ("axolotl", AXOLOTL, "utils/schemas/*.py", ("ModelInputConfig", "HyperparametersConfig", "AxolotlInputConfig")),
        ("llamafactory", LLAMAFACTORY, "hparams/*.py", ("Arguments", "Argument")),
    ],
)
def test_every_field_of_the_source_of_a_framework_is_known(
    package: str, framework: Framework, pattern: str, kinds: tuple[str, ...]
) -> None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    fields = list_fields(Path(next(iter(spec.submodule_search_locations))), pattern, kinds)
    assert fields
    assert fields - set(framework.index()) - framework.others == set()


def test_the_lists_of_what_decides_no_memory_say_which_release_they_are_of() -> None:
    folder = Path(frameworks.__file__).parent / "others"
    versions = {"axolotl": AXOLOTL.newest, "llamafactory": LLAMAFACTORY.newest, "trl": TRL.newest}
    for name, version in versions.items():
        assert f" {version}" in folder.joinpath(f"{name}.txt").read_text(encoding="utf-8").splitlines()[0]


def test_the_reference_page_has_the_tables_as_they_are() -> None:
    """`python -m tests.training_files.reference_page` writes it."""
    assert PAGE.read_text(encoding="utf-8") == make_page()
