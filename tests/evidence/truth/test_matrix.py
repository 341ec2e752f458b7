"""The rows that a GPU is held to can be run: the command reads their options, and their configurations are known."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from inspector.cli.main import command
from tests.evidence.truth.generation_rows import GENERATION_ROWS
from tests.evidence.truth.matrix import ROWS, pack
from tests.evidence.truth.matrix_row import MatrixRow, cut
from tests.evidence.truth.records import load


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_measure_reads_the_options_of_a_row(row: MatrixRow) -> None:
    words = [row.model, "--offline", *shlex.split(row.options)]
    given = command.subcommands["measure"].make_context("measure", words).params
    assert given["generate"] is row.generates


def test_names_of_rows_are_unique() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))


def test_each_generation_that_was_measured_ran_as_its_row_of_the_matrix_says() -> None:
    rows = {row.name: row for row in GENERATION_ROWS}
    recorded = {row.name: row for row in load() if row.group == "generation"}
    assert len(recorded) >= 12
    assert recorded.keys() <= rows.keys()
    for name, found in recorded.items():
        row = rows[name]
        given = command.subcommands["measure"].make_context("measure", [*shlex.split(row.options), row.model]).params
        assert found.workload.generates
        assert found.recipe.new_tokens == given["new_tokens"], name
        assert found.recipe.prompt_len == (given["prompt_len"] or 1), name
        assert found.files.config == cut(row.model, row.layers, row.stored, row.fields), name


def test_what_is_packed_of_a_record_is_all_that_its_prediction_needs(tmp_path: Path) -> None:
    row = next(row for row in GENERATION_ROWS if row.fields is not None and row.layers is None)
    record = {
        "schema": "inspector-measurement/1",
        "source": "inspect measure",
        "versions": {"torch": "2.13.0+cu130"},
        "gpu": {"name": "A GPU", "free_bytes": 1, "memory_bytes": 2},
        "model": {"id": "anywhere", "class": "SomeForCausalLM", "dtype": "bfloat16"},
        "config": cut(row.model, row.layers, row.stored, row.fields),
        "workload": "generate",
        "recipe": {"prompt_len": 8, "new_tokens": 256, "padding": False},
        "measured": {"phases": []},
        "predicted": {"phases": []},
        "differing_count": 0,
    }
    (tmp_path / f"{row.name}.json").write_text(json.dumps(record), encoding="utf-8")
    pack(tmp_path, tmp_path / "packed")
    packed = json.loads((tmp_path / "packed").read_text(encoding="utf-8"))
    assert packed["gpu"] == {"name": "A GPU", "memory_bytes": 2}
    (kept,) = packed["rows"]
    assert kept["fields"] == row.fields
    assert kept["recipe"] == {"prompt_len": 8, "padding": False}
    assert not {"config", "predicted", "differing_count"} & kept.keys()
