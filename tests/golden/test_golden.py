"""Text, Markdown and JSON of the hand-written reports, line by line, as the commands print them.

`UPDATE_GOLDENS=1 python -m pytest tests/golden` writes the files anew; the difference is then read in review.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TextIO
from unittest import mock

import pytest

from inspector.cli.console import render_document
from inspector.hardware.catalogue import catalogue
from inspector.render.comparison import (
    build_comparison_document,
    render_comparison_csv,
    render_comparison_json,
)
from inspector.render.document import Document
from inspector.render.gpus import build_gpus_document
from inspector.render.plan import build_plan_document, render_plan_csv, render_plan_json
from inspector.render.sections import SECTIONS
from inspector.render.sections.report import build_report_document
from inspector.render.writers.json import render_json
from tests.golden.render_plans import PLAN, THREE, TWO
from tests.golden.render_reports import REPORTS

FILES = Path(__file__).parent / "files"


class Terminal(io.StringIO):
    """A terminal; how wide it is stands in COLUMNS."""

    def isatty(self) -> bool:
        """Be one."""
        return True


def printed(shown: Document, suffix: str) -> str:
    """Return a document as the commands print it into the file with this suffix: text is 80 columns wide in a file."""
    width = suffix.removesuffix(".txt")
    stream = Terminal() if width.isdecimal() else io.StringIO()
    with mock.patch.dict(os.environ, {"COLUMNS": width}):
        render_document(shown, "markdown" if suffix == "md" else "text", stream, color=False)
    return stream.getvalue()


def written(render: Callable[[TextIO], None]) -> str:
    """Return what is written to a stream."""
    stream = io.StringIO()
    render(stream)
    return stream.getvalue()


def check_golden(name: str, text: str) -> None:
    """Hold a text against the file of a name, or write that anew."""
    path = FILES / name
    if os.environ.get("UPDATE_GOLDENS") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("suffix", ["txt", "60.txt", "40.txt", "md"])
@pytest.mark.parametrize("name", REPORTS)
def test_the_first_screen_is_the_golden_file(name: str, suffix: str) -> None:
    """Every line is the one that was read and found good."""
    check_golden(f"{name}.{suffix}", printed(build_report_document(REPORTS[name]), suffix))


@pytest.mark.parametrize("suffix", ["txt", "60.txt", "md"])
@pytest.mark.parametrize("name", REPORTS)
def test_the_details_are_the_golden_file(name: str, suffix: str) -> None:
    """The same for all that --details prints."""
    check_golden(f"{name}.details.{suffix}", printed(build_report_document(REPORTS[name], SECTIONS), suffix))


@pytest.mark.parametrize("name", REPORTS)
def test_the_json_is_the_golden_file(name: str) -> None:
    """The same for what programs read."""
    check_golden(f"{name}.json", written(functools.partial(render_json, REPORTS[name])))


@pytest.mark.parametrize("suffix", ["txt", "60.txt", "md"])
def test_the_list_of_gpus_is_the_golden_file(suffix: str) -> None:
    """A figure of the catalogue that changes is seen in review; its JSON is the TOML in other words."""
    check_golden(f"gpus.{suffix}", printed(build_gpus_document(catalogue()), suffix))


# What is written of a plan, as it comes and in another order, and of comparisons of two reports and of three.
OTHERS: dict[str, Callable[[], str]] = {
    "plan.txt": lambda: printed(build_plan_document(PLAN, "recipe"), "txt"),
    "plan.60.txt": lambda: printed(build_plan_document(PLAN, "recipe"), "60.txt"),
    "plan-by-seq-len.txt": lambda: printed(build_plan_document(PLAN, "seq-len"), "txt"),
    "plan.md": lambda: printed(build_plan_document(PLAN, "recipe"), "md"),
    "plan.json": lambda: written(functools.partial(render_plan_json, PLAN, "recipe")),
    "plan.csv": lambda: written(functools.partial(render_plan_csv, PLAN, "total")),
    "comparison.txt": lambda: printed(build_comparison_document(TWO), "txt"),
    "comparison.60.txt": lambda: printed(build_comparison_document(TWO), "60.txt"),
    "comparison-of-three.txt": lambda: printed(build_comparison_document(THREE), "txt"),
    "comparison.md": lambda: printed(build_comparison_document(TWO), "md"),
    "comparison.json": lambda: written(functools.partial(render_comparison_json, THREE)),
    "comparison.csv": lambda: written(functools.partial(render_comparison_csv, THREE)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_plan_and_a_comparison_are_the_golden_files(name: str) -> None:
    """Rows that fit, that do not, that could not be traced; figures that differ, that are equal, that are absent."""
    check_golden(name, OTHERS[name]())
