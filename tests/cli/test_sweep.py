"""`inspect sweep`: a row for each model, whatever happens to it, and none twice."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from inspector.sweep import COLUMNS, read_models

from .running import SMALL, assert_refused, bundled_config, run, written

OPTIONS = ("--count-only", "--offline", "--lora", "r=2", "--jobs", "1")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a list of a model of the catalogue, one that is not there, and a configuration."""
    folder = tmp_path / "own"
    folder.mkdir()
    config = written(folder, bundled_config(SMALL) | {"num_hidden_layers": 2})
    path = tmp_path / "models.txt"
    path.write_text(f"# a list\n{SMALL}  # small\n\nno/such-model\n{config}\n{SMALL}\n")
    return path


def test_a_list_names_each_model_once() -> None:
    """Blank lines and comments are none."""
    assert list(read_models(["a/b\n", "  # c\n", "\n", " d # e\n", "a/b"])) == ["a/b", "d"]


def test_a_row_says_what_a_report_does_and_why_there_is_none(models: Path) -> None:
    """Other models are inspected all the same."""
    ran = run("sweep", str(models), *OPTIONS)
    assert (ran.code, ran.err) == (0, "")
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(ran.out))}
    assert list(rows) == [SMALL, "no/such-model", str(models.parent / "own" / "config.json")]
    report = run(SMALL, "--count-only", "--offline", "--lora", "r=2", "--json").report
    assert rows[SMALL]["parameters"] == str(report["parameters"]["base"])
    assert rows[SMALL]["trained"] == str(report["parameters"]["trainable"])
    assert rows[SMALL]["options"].removeprefix("'") == "--offline --lora r=2 --count-only"
    assert "drop --offline" in rows["no/such-model"]["error"]
    assert rows["no/such-model"]["parameters"] == ""


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_sweep_goes_on_where_it_was_interrupted(name: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a row is cut off and worked out again; whole rows stay as they are."""
    output = models.with_name(name)
    asked = ("sweep", str(models), *OPTIONS, "--output", str(output))
    assert run(*asked).code == 0
    whole = output.read_bytes()
    lines = whole.splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:-1]) + lines[-1][:10])
    assert run(*asked).code == 0
    assert output.read_bytes() == whole
    monkeypatch.setattr("inspector.sweep.work_in_processes", None)  # calling it would fail
    assert run(*asked).code == 0
    assert output.read_bytes() == whole


def test_a_step_has_its_peak_and_a_card_its_verdict(tmp_path: Path) -> None:
    """As JSON, of which a row has what there is."""
    path = tmp_path / "models"
    path.write_text(SMALL)
    words = ("--offline", "--lora", "r=2", "--seq-len", "64", "--gpu", "t4")
    row = json.loads(run("sweep", str(path), *words, "--format", "jsonl", "--jobs", "1").out)
    assert set(row) <= {*COLUMNS, "fits T4"}
    assert (row["fits T4"], row["class"], "error" in row) == ("yes", "Qwen2ForCausalLM", False)
    assert 0 < row["peak_allocated_bytes"] <= row["peak_reserved_bytes"] < row["total_bytes"]


def test_what_cannot_be_read_or_added_to_is_refused(models: Path) -> None:
    """A file of something else stays as it is."""
    assert_refused(run("sweep", str(models.with_name("none")), *OPTIONS), 2, "cannot be read")
    other = models.with_name("other.csv")
    other.write_text("a,b\n1,2\n")
    assert_refused(run("sweep", str(models), *OPTIONS, "--output", str(other)), 2, "holds no such rows")
    assert other.read_text() == "a,b\n1,2\n"
    assert_refused(run("sweep", str(models), "--gpu", "nonesuch"), 2, "nonesuch")
