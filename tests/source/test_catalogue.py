from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from inspector.records.source import ServedFrom
from inspector.source import catalogue
from inspector.source.recognize.nearest import list_near_ids


def test_every_id_can_be_loaded() -> None:
    """Each file name gives the id that the file itself holds."""
    ids = catalogue.list_ids()
    assert "Qwen/QwQ-32B" in ids
    assert list(ids) == sorted(set(ids))
    for name in ids:
        files = catalogue.load_model(name)
        assert files is not None
        assert files.id == name
        assert files.served_from is ServedFrom.BUNDLED
        assert files.published is not None


def test_an_alias_is_answered_with_the_id_it_stands_for() -> None:
    """`gpt2` is the Hub's legacy name of openai-community/gpt2."""
    files = catalogue.load_model("gpt2")
    assert files is not None
    assert files.id == "openai-community/gpt2"


def test_letter_case_does_not_matter() -> None:
    """Ids and aliases are found in any case."""
    for name in ("qwen/qwq-32b", "QWEN/QWQ-32B"):
        files = catalogue.load_model(name)
        assert files is not None
        assert files.id == "Qwen/QwQ-32B"


@pytest.mark.parametrize("name", ["", "nobody/nothing", "../models/Qwen__QwQ-32B", "Qwen__QwQ-32B", "Qwen/../QwQ-32B"])
def test_names_that_are_not_in_the_catalogue_are_not_found(name: str) -> None:
    """Only ids and aliases count: not file names, and nothing leads out of the directory."""
    assert catalogue.load_model(name) is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Qwen/QwQ-32", "Qwen/QwQ-32B"), ("QwQ-32B", "Qwen/QwQ-32B"), ("qwen/qwq32b", "Qwen/QwQ-32B")],
)
def test_near_names_of_models_are_suggested(name: str, meant: str) -> None:
    """A slip, a missing organisation and another case lead to the id that was meant, first of at most three."""
    near = list_near_ids(name, catalogue.list_ids())
    assert near[0] == meant
    assert len(near) <= 3


def test_nothing_is_suggested_for_something_else() -> None:
    """A name that resembles no id gets no suggestion."""
    assert list_near_ids("zzzz/0000-1111", catalogue.list_ids()) == []


def test_an_installed_package_uses_its_own_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The directory inside the package wins over the checkout's, and no directory at all is an empty catalogue."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for directory, name in ((inside, "a__b"), (outside, "c__d")):
        directory.mkdir()
        (directory / f"{name}.json").write_text("{}")
    monkeypatch.setattr(catalogue, "_LOCATIONS", (inside, outside))
    assert catalogue.list_ids() == ("a/b",)
    monkeypatch.setattr(catalogue, "_LOCATIONS", (tmp_path / "absent", outside))
    assert catalogue.list_ids() == ("c/d",)
    monkeypatch.setattr(catalogue, "_LOCATIONS", (tmp_path / "absent",))
    assert catalogue.list_ids() == ()


def test_listing_the_ids_loads_no_client() -> None:
    """Completion and `--help` can list the catalogue without importing huggingface_hub."""
    code = "from inspector.source import catalogue, locate; catalogue.list_ids(); import sys; "
    code += "print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
