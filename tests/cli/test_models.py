"""`inspect models`: what is known without network, filtered, in every format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from inspector.source.catalogue import list_ids

from .running import assert_refused, run


def test_all_models_of_the_catalogue_are_listed() -> None:
    ran = run("models", "--json")
    listed = json.loads(ran.out)
    assert (ran.code, ran.err, listed["schema"]) == (0, "", "inspector-models/1")
    assert sorted(entry["id"] for entry in listed["models"]) == sorted(list_ids())
    assert listed["models"][0] == {
        "id": "ai21labs/AI21-Jamba-1.5-Mini",
        "aliases": [],
        "model_type": "jamba",
        "published": {
            "parameters": 51_570_323_328,
            "kind": "count of the same architecture",
            "source": listed["models"][0]["published"]["source"],
        },
    }


@pytest.mark.parametrize(
    ("filters", "first", "count"),
    [
        (["QWQ"], "Qwen/QwQ-32B", 1),
        (["llama", "8b"], "meta-llama/Meta-Llama-3-8B", 2),
        (["gpt2", "xl"], "openai-community/gpt2-xl", 1),
    ],
)
def test_filters_hold_together_in_any_case(filters: list[str], first: str, count: int) -> None:
    """Parts of the id, of another name, or of the model type."""
    lines = list(csv.DictReader(io.StringIO(run("models", *filters, "--format", "csv").out)))
    assert lines[0]["id"] == first
    assert len(lines) == count


def test_the_text_has_type_and_parameters() -> None:
    ran = run("models", "qwq")
    (line,) = [line for line in ran.out.splitlines() if "QwQ" in line]
    assert line.split() == ["Qwen/QwQ-32B", "qwen2", "32,763,876,352", "32.76", "B", "the", "same"]
    markdown = run("models", "qwq", "--format", "markdown").out
    assert "Qwen/QwQ-32B" in markdown


def test_a_count_that_differs_from_p_is_marked() -> None:
    (line,) = [line for line in run("models", "gpt2", "community/gpt2").out.splitlines() if line.endswith("differs")]
    assert line.split()[0] == "openai-community/gpt2"


def test_no_model_is_one_line() -> None:
    assert_refused(run("models", "zzzz"), 2, "no model of the bundled catalogue has 'zzzz'; see inspect models")


def test_the_file_decides_the_format(tmp_path: Path) -> None:
    for ending, start in (("json", "{"), ("csv", "id,"), ("md", "#"), ("txt", "Models")):
        path = tmp_path / f"models.{ending}"
        assert run("models", "qwq", "--output", str(path)).code == 0
        assert path.read_text(encoding="utf-8").lstrip().startswith(start)
