"""Text from outside does nothing but be read: no terminal sequence, no markup, no element, no table cell of its own."""

from __future__ import annotations

import html
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from inspector.errors import one_line
from inspector.render.comparison import (
    build_comparison_document,
    render_comparison_csv,
    render_comparison_json,
)
from inspector.render.plan import build_plan_document, render_plan_csv, render_plan_json
from inspector.render.sections import SECTIONS
from inspector.render.sections.report import build_report_document
from inspector.render.writers.html import render_html
from inspector.render.writers.json import render_json
from inspector.render.writers.markdown import escape_markdown, write_markdown
from inspector.render.writers.text import write_text
from tests.golden.render_plans import HOSTILE_COMPARISON, HOSTILE_PLAN
from tests.golden.render_reports import HOSTILE, HOSTILE_TEXT, REPORTS


def outputs() -> dict[str, str]:
    """Return the hostile report in every format."""
    text, markdown, as_json = io.StringIO(), io.StringIO(), io.StringIO()
    write_text(build_report_document(HOSTILE, SECTIONS), width=200, color=False, stream=text)
    write_markdown(build_report_document(HOSTILE, SECTIONS), markdown)
    render_json(HOSTILE, as_json)
    return {
        "text": text.getvalue(),
        "markdown": markdown.getvalue(),
        "json": as_json.getvalue(),
        "html": render_html(HOSTILE),
    }


@pytest.mark.parametrize("name", ["text", "markdown", "json", "html"])
def test_no_control_character_is_written(name: str) -> None:
    """Escape sequences, direction overrides, invisible characters and lone surrogates reach no output."""
    output = outputs()[name]
    assert all(character == "\n" or character.isprintable() for character in output)
    output.encode()


@pytest.mark.parametrize("name", ["markdown", "html"])
def test_text_from_outside_starts_no_html_element(name: str) -> None:
    """Angle brackets from outside are entities."""
    assert "<script" not in outputs()[name]
    assert "</td><" not in outputs()["markdown"]
    assert "&lt;script&gt;" in outputs()[name]


def test_rich_markup_and_emoji_codes_are_printed_as_they_are() -> None:
    """The terminal shows the brackets instead of obeying them."""
    assert "[red]loud[/red] :skull: |" in outputs()["text"]


@pytest.mark.parametrize("what", ["plan", "comparison"])
def test_a_plan_and_a_comparison_write_no_control_character_and_start_no_element(what: str) -> None:
    """In any of their formats."""
    text, markdown, as_json, table = (io.StringIO() for _ in range(4))
    shown = (
        build_plan_document(HOSTILE_PLAN, "recipe") if what == "plan" else build_comparison_document(HOSTILE_COMPARISON)
    )
    write_text(shown, width=200, color=False, stream=text)
    write_markdown(shown, markdown)
    if what == "plan":
        render_plan_json(HOSTILE_PLAN, "recipe", as_json)
        render_plan_csv(HOSTILE_PLAN, "recipe", table)
    else:
        render_comparison_json(HOSTILE_COMPARISON, as_json)
        render_comparison_csv(HOSTILE_COMPARISON, table)
    for stream in (text, markdown, as_json, table):
        assert all(character == "\n" or character.isprintable() for character in stream.getvalue())
    assert "<script" not in markdown.getvalue()


def test_json_carries_hostile_text_unchanged() -> None:
    """Programs get what the repository said, in ASCII, and nothing that JSON has no form for."""
    as_json = outputs()["json"]
    assert as_json.isascii()
    assert as_json.endswith("}\n")
    report = json.loads(as_json)
    assert report["model"]["id"] == HOSTILE_TEXT
    assert report["adapter"]["config"]["nan"] == "nan"
    assert report["adapter"]["config"]["names"] == ["a", "b"]


@pytest.mark.parametrize("name", REPORTS)
def test_rows_of_a_markdown_table_have_as_many_cells_with_hostile_text(name: str) -> None:
    """All lines of a table have the same number of cells."""
    stream = io.StringIO()
    write_markdown(build_report_document(REPORTS[name], SECTIONS), stream)
    for table in re.findall(r"(?:^\|.*\n)+", stream.getvalue(), flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", r"a\|b"),
        ("`x`", r"\`x\`"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("[a](b)", r"\[a\](b)"),
        ("adamw_torch", "adamw_torch"),
        ("__init__", r"\_\_init\_\_"),
        ("P_a", "P_a"),
        ("# x", r"\# x"),
        ("- x", r"\- x"),
        ("1. x", r"1\. x"),
        ("12·P", "12·P"),
        ("-131,055 and +2.5 %", "-131,055 and +2.5 %"),
        ("---", r"\---"),
        (r"a\|b", r"a\\\|b"),
    ],
)
def test_markdown_escapes_what_has_a_meaning(text: str, expected: str) -> None:
    """A character with a meaning in GitHub Markdown loses it; names stay readable."""
    assert escape_markdown(text) == expected


class _Checker(HTMLParser):
    """Collects what is wrong with a fragment: tags that do not pair, attributes other than style and class."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.wrong += [f"{tag} {name}" for name, _ in attrs if name not in ("style", "class")]
        if tag not in {"div", "table", "tr", "td", "th", "details", "summary"}:
            self.wrong.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag}")


@pytest.mark.parametrize("name", REPORTS)
def test_html_is_a_closed_fragment_that_loads_nothing(name: str) -> None:
    """Tags pair, only plain elements occur, and no attribute could hold an address or a handler."""
    checker = _Checker()
    checker.feed(render_html(REPORTS[name]))
    checker.close()
    assert checker.wrong == []
    assert checker.open == []
    assert "url(" not in render_html(REPORTS[name])


@pytest.mark.parametrize("name", REPORTS)
def test_a_notebook_shows_the_answer_and_the_warnings_and_folds_the_rest(name: str) -> None:
    """Whatever has a title is closed until somebody opens it."""
    report = REPORTS[name]
    shown = re.sub(r"<details>.*?</details>", "", render_html(report), flags=re.DOTALL)
    assert f"{report.parameters.total:,}" in shown
    assert all(html.escape(one_line(notice.message, 4000)) in shown for notice in report.warnings)
    assert "Parameters by role" not in shown
    assert "Parameters by role" in render_html(report)


def test_a_notebook_shows_the_html() -> None:
    """`Report._repr_html_` is the fragment."""
    report: Any = REPORTS["qwq-lora"]
    assert report._repr_html_() == render_html(report)
    assert "134,217,728" in report._repr_html_()
