"""Text, Markdown and JSON of the hand-written reports, line by line.

`UPDATE_GOLDENS=1 python -m pytest tests/golden` writes the files anew; the difference is then read in review.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from inspector.hardware.catalogue import catalogue
from inspector.records.report import Report
from inspector.render.comparison import (
    render_comparison_csv,
    render_comparison_json,
    shown_comparison,
)
from inspector.render.gpus import shown_gpus
from inspector.render.plan import render_plan_csv, render_plan_json, shown_plan
from inspector.render.writers.json import render_json
from inspector.render.writers.markdown import render_markdown, write_markdown
from inspector.render.writers.text import render_text, write_text
from tests.golden.render_plans import PLAN, THREE, TWO
from tests.golden.render_reports import REPORTS

FILES = Path(__file__).parent / "files"
WIDTH = 100


def rendered(report: Report, suffix: str) -> str:
    """Return a report as the file with this suffix holds it."""
    stream = io.StringIO()
    if suffix == "txt":
        render_text(report, width=WIDTH, color=False, stream=stream)
    elif suffix == "60.txt":
        render_text(report, width=60, color=False, stream=stream)
    elif suffix == "md":
        render_markdown(report, stream)
    else:
        render_json(report, stream)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", ["txt", "60.txt", "md", "json"])
@pytest.mark.parametrize("name", REPORTS)
def test_output_is_the_golden_file(name: str, suffix: str) -> None:
    """Every line is the one that was read and found good."""
    path = FILES / f"{name}.{suffix}"
    text = rendered(REPORTS[name], suffix)
    if os.environ.get("UPDATE_GOLDENS") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("suffix", ["txt", "60.txt", "md"])
def test_the_list_of_gpus_is_the_golden_file(suffix: str) -> None:
    """A figure of the catalogue that changes is seen in review; its JSON is the TOML in other words."""
    stream = io.StringIO()
    if suffix == "md":
        write_markdown(shown_gpus(catalogue()), stream)
    else:
        write_text(shown_gpus(catalogue()), width=60 if suffix == "60.txt" else WIDTH, color=False, stream=stream)
    path = FILES / f"gpus.{suffix}"
    if os.environ.get("UPDATE_GOLDENS") == "1":
        path.write_text(stream.getvalue(), encoding="utf-8", newline="\n")
    assert stream.getvalue().splitlines() == path.read_text(encoding="utf-8").splitlines()


# What is written of a plan, as it comes and in another order, and of comparisons of two reports and of three.
OTHERS: dict[str, Callable[[TextIO], None]] = {
    "plan.txt": lambda stream: write_text(shown_plan(PLAN, "recipe"), width=WIDTH, color=False, stream=stream),
    "plan.60.txt": lambda stream: write_text(shown_plan(PLAN, "recipe"), width=60, color=False, stream=stream),
    "plan-by-seq-len.txt": lambda stream: write_text(
        shown_plan(PLAN, "seq-len"), width=WIDTH, color=False, stream=stream
    ),
    "plan.md": lambda stream: write_markdown(shown_plan(PLAN, "recipe"), stream),
    "plan.json": lambda stream: render_plan_json(PLAN, "recipe", stream),
    "plan.csv": lambda stream: render_plan_csv(PLAN, "total", stream),
    "comparison.txt": lambda stream: write_text(shown_comparison(TWO), width=WIDTH, color=False, stream=stream),
    "comparison.60.txt": lambda stream: write_text(shown_comparison(TWO), width=60, color=False, stream=stream),
    "comparison-of-three.txt": lambda stream: write_text(
        shown_comparison(THREE), width=WIDTH, color=False, stream=stream
    ),
    "comparison.md": lambda stream: write_markdown(shown_comparison(TWO), stream),
    "comparison.json": lambda stream: render_comparison_json(THREE, stream),
    "comparison.csv": lambda stream: render_comparison_csv(THREE, stream),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_plan_and_a_comparison_are_the_golden_files(name: str) -> None:
    """Rows that fit, that do not, that could not be traced; figures that differ, that are equal, that are absent."""
    stream = io.StringIO()
    OTHERS[name](stream)
    path = FILES / name
    if os.environ.get("UPDATE_GOLDENS") == "1":
        path.write_text(stream.getvalue(), encoding="utf-8", newline="\n")
    assert stream.getvalue().splitlines() == path.read_text(encoding="utf-8").splitlines()


def test_no_golden_file_is_left_over() -> None:
    """Each file belongs to a report that still exists."""
    expected = {f"{name}.{suffix}" for name in REPORTS for suffix in ("txt", "60.txt", "md", "json")}
    lists = {"gpus.txt", "gpus.60.txt", "gpus.md"}
    assert {path.name for path in FILES.iterdir()} == expected | lists | set(OTHERS)
