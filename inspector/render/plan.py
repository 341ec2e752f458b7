"""A plan as a document, as JSON of schema `inspector-plan/1` and as CSV: one row for each way to train."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from inspector.errors import one_line
from inspector.fit_records import Plan, PlanRow
from inspector.records import plain
from inspector.render.document import Document, Kind, Row, Section, Table, Tone, column, paragraph, row
from inspector.units import format_bytes, format_count

__all__ = ["ORDERS", "SCHEMA", "render_plan_csv", "render_plan_json", "shown_plan", "sorted_plan"]

SCHEMA = "inspector-plan/1"
_COLUMNS = (
    *("method", "options", "fits", "peak_allocated_bytes", "total_bytes", "headroom_bytes", "largest", "refused"),
)
_Key = Callable[[PlanRow], Any]
# How rows can be ordered; what could not be traced comes last.
ORDERS: Mapping[str, _Key | None] = {
    "recipe": None,
    "total": lambda each: (each.total_bytes is None, each.total_bytes or 0),
    "largest": lambda each: (each.largest is None, -(each.largest or 0), each.total_bytes or 0),
}
_UNKNOWN = "–"


def sorted_plan(plan: Plan, order: str) -> tuple[PlanRow, ...]:
    """Return the rows in one of the orders; `recipe` leaves them as they are."""
    key = ORDERS[order]
    return tuple(plan.rows) if key is None else tuple(sorted(plan.rows, key=key))


def shown_plan(plan: Plan, order: str) -> Document:
    """Return the plan as a table, and what its columns mean."""
    quantity = plan.quantity or ""
    columns = (
        column("method", Kind.LABEL),
        column("fits", Kind.LABEL),
        column("total", Kind.NUMBER),
        column("headroom", Kind.NUMBER),
        column(f"largest {quantity}" if quantity else "", Kind.NUMBER),
        column("options", Kind.WORDS),
    )
    rows = tuple(map(_row, sorted_plan(plan, order)))
    largest = f" Largest is the largest {quantity} that fits, 0 where none does." if quantity else ""
    words = (
        "Total is what nvidia-smi would show at the peak of a step. Headroom is what stays unreserved of the usable "
        f"memory; below zero, what is missing at least.{largest} Each row was traced; --json has the bytes."
    )
    usable = f"{plan.gpu}: {format_bytes(plan.usable_bytes)} usable of {format_bytes(plan.memory_bytes)}"
    return Document(
        title=one_line(plan.model),
        subtitle=(one_line(usable), one_line(plan.recipe)),
        sections=(Section(title="", blocks=(Table(columns=columns, rows=rows), paragraph(words, Tone.QUIET))),),
        warnings=tuple(paragraph(notice).text for notice in plan.warnings),
        footer=one_line(", ".join(f"{name} {version}" for name, version in plan.versions.items())),
    )


def render_plan_json(plan: Plan, order: str, stream: TextIO) -> None:
    """Write the plan to `stream` as one JSON object."""
    content = {"schema": SCHEMA, **plain(plan), "rows": [plain(each) for each in sorted_plan(plan, order)]}
    json.dump(content, stream, indent=2, ensure_ascii=True)
    stream.write("\n")


def render_plan_csv(plan: Plan, order: str, stream: TextIO) -> None:
    """Write a line for each row below a line of titles; what is not known is empty."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for each in sorted_plan(plan, order):
        values = plain(each)
        writer.writerow(
            [str(values.get(name, "")).lower() if name == "fits" else values.get(name, "") for name in _COLUMNS]
        )


def _row(each: PlanRow) -> Row:
    """Return one way to train."""
    if each.total_bytes is None or each.headroom_bytes is None:
        words = f"{each.options}: not traced: {each.refused}"
        return row((each.method, _UNKNOWN, _UNKNOWN, _UNKNOWN, "", words), tone=Tone.QUIET)
    cells = (
        each.method,
        "yes" if each.fits else "no",
        format_bytes(each.total_bytes),
        format_bytes(each.headroom_bytes, signed=True),
        "" if each.largest is None else format_count(each.largest),
        each.options,
    )
    return row(cells, tone=Tone.KEY if each.fits else Tone.PLAIN)
