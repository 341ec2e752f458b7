"""What the walk of the libraries found still holds: a sample of its cheap cases is walked again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.evidence.coverage.adapters import judge_adapter, list_adapters
from tests.evidence.coverage.classes import judge_class, list_classes
from tests.evidence.coverage.page import PAGE, make_page
from tests.evidence.coverage.public import judge_public, list_public
from tests.evidence.coverage.walk import read_rows

# Of cases that take no longer, in the order of their names, every so many: some seconds in all.
_CHEAP_SECONDS = 0.7
_EVERY_CLASS, _EVERY_ADAPTER, _EVERY_MODEL = 120, 90, 40
# Seconds and what follows from the machine are no part of what is compared.
_HELD = ("counted", "parameters", "equal", "file_equal", "traced", "peak")
# What was counted wrongly once.
_WRONG_ONCE = (("t5", "ADALORA"), ("llama", "LoRA monteclora"))


def _sample(kind: str, every: int) -> list[dict[str, Any]]:
    """Return rows of cheap cases."""
    cheap = [row for row in read_rows(kind) if row.get("seconds", 1) <= _CHEAP_SECONDS and row.get("counted")]
    chosen = cheap[::every]
    known = [row for row in read_rows(kind) if (row.get("model"), row.get("method")) in _WRONG_ONCE]
    return chosen + [row for row in known if row not in chosen]


def _judge(parts: Any) -> dict[str, Any]:
    """Return what is held of a case."""
    found: dict[str, Any] = {}
    for part in parts:
        found |= part
    return {key: value for key, value in found.items() if key in _HELD}


@pytest.mark.parametrize("row", _sample("classes", _EVERY_CLASS), ids=lambda row: row["class"])
@pytest.mark.filterwarnings("ignore")
def test_a_class_is_counted_and_traced_as_the_walk_found(row: dict[str, Any], tmp_path: Path) -> None:
    assert _judge(judge_class(row, tmp_path)) == {key: value for key, value in row.items() if key in _HELD}


@pytest.mark.parametrize("row", _sample("adapters", _EVERY_ADAPTER), ids=lambda row: f"{row['model']}-{row['method']}")
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_is_counted_and_traced_as_the_walk_found(row: dict[str, Any], tmp_path: Path) -> None:
    assert _judge(judge_adapter(row, tmp_path)) == {key: value for key, value in row.items() if key in _HELD}


@pytest.mark.parametrize("row", _sample("public", _EVERY_MODEL), ids=lambda row: f"{row['model']}-{row['method']}")
@pytest.mark.filterwarnings("ignore")
def test_a_published_model_is_traced_as_the_walk_found(row: dict[str, Any], tmp_path: Path) -> None:
    assert _judge(judge_public(row, tmp_path)) == {key: value for key, value in row.items() if key in _HELD}


def test_every_class_and_every_method_that_was_walked_is_one_of_the_libraries() -> None:
    classes = {(row["type"], row["class"]) for row in read_rows("classes")}
    assert classes <= {(case["type"], case["class"]) for case in list_classes()}
    adapters = {(row["model"], row["method"]) for row in read_rows("adapters")}
    assert adapters <= {(case["model"], case["method"]) for case in list_adapters()}
    models = {(row["model"], row["method"]) for row in read_rows("public")}
    assert models == {(case["model"], case["method"]) for case in list_public()}


def test_no_count_differs_from_real_tensors_and_no_trace_breaks_a_law() -> None:
    rows = read_rows("classes") + read_rows("adapters") + read_rows("public")
    assert [row for row in rows if row.get("equal") is False or row.get("file_equal") is False] == []
    assert [row for row in rows if row.get("broken")] == []


def test_the_page_is_made_of_what_the_walk_found() -> None:
    assert PAGE.read_text(encoding="utf-8") == make_page()
