"""CSV that a spreadsheet opens: texts are never computed, numbers stay numbers."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.records.comparison import Figure, Setting
from inspector.render.comparison import render_comparison_csv
from inspector.render.plan import render_plan_csv
from inspector.render.writers.spreadsheet import Cell, write_csv
from tests.golden.render_plans import PLAN, THREE


def lines(*rows: list[Cell]) -> list[list[str]]:
    """Return the cells of rows after they were written and read again."""
    stream = io.StringIO()
    write_csv(rows, stream)
    return list(csv.reader(io.StringIO(stream.getvalue())))


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "--optimizer sgd", "＝1", '=HYPERLINK("//a","b")']
)
def test_a_text_that_a_spreadsheet_would_compute_has_an_apostrophe_before_it(text: str) -> None:
    assert lines([text, "a"]) == [[f"'{text}", "a"]]


@pytest.mark.parametrize("number", ["-1.5", "+2", "-1e-3", "-12", -12, -1.5])
def test_a_number_in_a_spreadsheet_has_no_apostrophe(number: Cell) -> None:
    assert lines([number]) == [[str(number)]]


@given(st.lists(st.text(), min_size=1))
def test_a_spreadsheet_computes_no_cell_and_keeps_every_text_in_its_row(texts: list[str]) -> None:
    ((*cells,),) = lines(["", *texts])
    assert len(cells) == len(texts) + 1
    for cell in cells:
        assert not cell.startswith(("=", "@", "\t", "\r", "\n"))
        if cell.startswith(("+", "-")):
            float(cell)


def test_a_spreadsheet_computes_no_cell_of_a_plan_or_of_a_comparison_of_foreign_reports() -> None:
    """The options of a plan begin with hyphens, and what is in a saved report with whatever its author wrote."""
    foreign = dataclasses.replace(
        THREE,
        settings=(Setting(path="=1+1", values={"A": "@x", "B": "+cmd|' /C calc'!A0", "C": -1}),),
        figures=(Figure(path="=2", values={"A": 1, "B": -2}, differences={"B": -3}),),
    )
    plan, comparison = io.StringIO(), io.StringIO()
    render_plan_csv(PLAN, "recipe", plan)
    render_comparison_csv(foreign, comparison)
    for table in (plan, comparison):
        cells = [cell for row in csv.reader(io.StringIO(table.getvalue())) for cell in row]
        computed = [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
        assert all(cell.lstrip("-").isdigit() for cell in computed)
