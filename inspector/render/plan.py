"""A plan as a document, as JSON of schema `inspector-plan/1` and as CSV: one row for each way to train.

The document answers first: for each method the least harmful way that fits. Then come all rows, method by method, or in
one table where another order was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from inspector.errors import one_line
from inspector.records.fit import Method, Plan, PlanRow
from inspector.records.serialize import to_plain
from inspector.render.document import Document, Kind, Paragraph, Row, Section, Table, Tone, column, paragraph, row
from inspector.render.writers.spreadsheet import write_csv
from inspector.units import format_bytes, format_count

__all__ = ["ORDERS", "SCHEMA", "render_plan_csv", "render_plan_json", "shown_plan", "sorted_plan"]

SCHEMA = "inspector-plan/1"
_COLUMNS = (
    *("method", "options", "fits", "peak_allocated_bytes", "total_bytes", "headroom_bytes"),
    *("largest_batch_size", "largest_seq_len", "refused"),
)
_UNKNOWN = "–"
_TITLES = {"batch-size": "batch", "seq-len": "row"}


def _least(name: str) -> Callable[[PlanRow], Any]:
    """Return the key that puts the smallest figure first, what could not be traced last."""
    return lambda each: (getattr(each, name) is None, getattr(each, name) or 0)


def _most(name: str) -> Callable[[PlanRow], Any]:
    """Return the key that puts the largest figure first and, of equal ones, the smallest total."""
    return lambda each: (getattr(each, name) is None, -(getattr(each, name) or 0), each.total_bytes or 0)


# How rows can be ordered; `recipe` leaves them as they are.
ORDERS: Mapping[str, Callable[[PlanRow], Any] | None] = {
    "recipe": None,
    "peak": _least("peak_allocated_bytes"),
    "total": _least("total_bytes"),
    "headroom": _most("headroom_bytes"),
    "batch-size": _most("largest_batch_size"),
    "seq-len": _most("largest_seq_len"),
}


def sorted_plan(plan: Plan, order: str) -> tuple[PlanRow, ...]:
    """Return the rows in one of the orders."""
    key = ORDERS[order]
    return tuple(plan.rows) if key is None else tuple(sorted(plan.rows, key=key))


def shown_plan(plan: Plan, order: str) -> Document:
    """Return the answers, the rows, and what their columns mean."""
    names = _method_names(plan)
    present = list(dict.fromkeys(each.method for each in plan.rows))
    if order == "recipe":
        sections = [
            _section(
                plan, names[method], [(", ".join(each.levers), each) for each in plan.rows if each.method is method]
            )
            for method in present
        ]
    else:
        rows = [(f"{names[each.method]}: {', '.join(each.levers)}", each) for each in sorted_plan(plan, order)]
        sections = [_section(plan, f"All ways, by {order}", rows)]
    answers = Table(
        columns=(column("", Kind.LABEL), column("", Kind.WORDS)),
        rows=tuple(_answer(names[method], [each for each in plan.rows if each.method is method]) for method in present),
    )
    usable = f"{plan.gpu}: {format_bytes(plan.usable_bytes)} usable of {format_bytes(plan.memory_bytes)}"
    return Document(
        title=one_line(plan.model),
        subtitle=(one_line(usable), one_line(plan.recipe)),
        sections=(
            Section(title="", blocks=(answers,)),
            *sections,
            Section(title="What the columns mean", blocks=tuple(_meanings(plan))),
        ),
        warnings=tuple(paragraph(notice).text for notice in plan.warnings),
        footer=one_line(", ".join(f"{name} {version}" for name, version in plan.versions.items())),
    )


def render_plan_json(plan: Plan, order: str, stream: TextIO) -> None:
    """Write the plan to `stream` as one JSON object."""
    content = {"schema": SCHEMA, **to_plain(plan), "rows": [to_plain(each) for each in sorted_plan(plan, order)]}
    json.dump(content, stream, indent=2, ensure_ascii=True)
    stream.write("\n")


def render_plan_csv(plan: Plan, order: str, stream: TextIO) -> None:
    """Write a line for each row below a line of titles; what is not known is empty."""
    rows = [to_plain(row) for row in sorted_plan(plan, order)]
    write_csv([_COLUMNS, *([row.get(name) for name in _COLUMNS] for row in rows)], stream)


def _method_names(plan: Plan) -> Mapping[Method, str]:
    """Return what people call each method with the adapters of this plan."""
    adapter = one_line(plan.adapter, 40)
    is_lora = adapter == "LORA"
    return {
        Method.FULL: "full",
        Method.ADAPTER: "LoRA" if is_lora else adapter,
        Method.QUANTIZED_ADAPTER: "QLoRA" if is_lora else f"{adapter}, packed",
    }


def _answer(method: str, rows: Sequence[PlanRow]) -> Row:
    """Say the least harmful way of a method that fits, or how far away the smallest is."""
    traced = [each for each in rows if each.total_bytes is not None and each.headroom_bytes is not None]
    fitting = next((each for each in traced if each.fits), None)
    if fitting is not None:
        words = f"fits with {format_bytes(fitting.headroom_bytes or 0)} to spare{_up_to(fitting)}: {fitting.options}"
        return row((method, words), tone=Tone.KEY)
    if not traced:
        return row((method, f"not traced: {rows[0].refused}"), tone=Tone.QUIET)
    least = max(traced, key=lambda each: each.headroom_bytes or 0)
    missing = format_bytes(-(least.headroom_bytes or 0))
    smaller = next((each for each in traced if each.largest_seq_len), None)
    instead = (
        "" if smaller is None else f"; with rows of {format_count(smaller.largest_seq_len or 0)}: {smaller.options}"
    )
    return row((method, f"does not fit, {missing} are missing at least ({', '.join(least.levers)}){instead}"))


def _up_to(each: PlanRow) -> str:
    """Say how far the batch and the rows of a way can grow, each alone."""
    words = ""
    if each.largest_batch_size is not None:
        words += f", batch up to {format_count(each.largest_batch_size)}"
    if each.largest_seq_len is not None:
        words += f"{' or' if words else ','} rows up to {format_count(each.largest_seq_len)}"
    return words


def _section(plan: Plan, title: str, rows: Sequence[tuple[str, PlanRow]]) -> Section:
    """Return a table of rows, each with what it is called, and why some were not traced."""
    columns = (
        column("", Kind.WORDS),
        column("fits", Kind.LABEL),
        column("peak", Kind.NUMBER),
        column("total", Kind.NUMBER),
        column("headroom", Kind.NUMBER),
        *(column(_TITLES[each], Kind.NUMBER) for each in plan.quantities),
    )
    largest = tuple(range(5, len(columns)))
    views = ((tuple(range(len(columns))),), ((0, 1, 3, *largest),), ((0, 1, 3),))
    table = Table(columns=columns, rows=tuple(_row(plan, name, each) for name, each in rows), views=views)
    refusals: dict[str, list[str]] = {}
    for name, each in rows:
        if each.refused is not None:
            refusals.setdefault(each.refused, []).append(name)
    reasons = [paragraph(f"Not traced: {'; '.join(names)}. {why}", Tone.QUIET) for why, names in refusals.items()]
    return Section(title=one_line(title), blocks=(table, *reasons))


def _row(plan: Plan, name: str, each: PlanRow) -> Row:
    """Return one way to train."""
    if each.total_bytes is None or each.headroom_bytes is None or each.peak_allocated_bytes is None:
        return row((name, *[_UNKNOWN] * (4 + len(plan.quantities))), tone=Tone.QUIET)
    largest = {"batch-size": each.largest_batch_size, "seq-len": each.largest_seq_len}
    found = [largest[quantity] for quantity in plan.quantities]
    cells = (
        name,
        "yes" if each.fits else "no",
        format_bytes(each.peak_allocated_bytes),
        format_bytes(each.total_bytes),
        format_bytes(each.headroom_bytes, signed=True),
        *(_UNKNOWN if value is None else format_count(value) for value in found),
    )
    return row(cells, tone=Tone.KEY if each.fits else Tone.PLAIN)


def _meanings(plan: Plan) -> Iterator[Paragraph]:
    """Yield what the figures are, and the options behind the words."""
    largest = (
        " Batch is the most rows of a micro-batch that fit, row the most tokens of a row in steps of 64, each with all "
        "else as it is; 0 where not even the least fits."
        if plan.quantities
        else ""
    )
    yield paragraph(
        "Peak is what torch allocates at most, total what nvidia-smi would show. Headroom is what stays unreserved of "
        f"the usable memory; below zero, what is missing at least.{largest} Each row was traced; --json has the bytes.",
        Tone.QUIET,
    )
    yield paragraph(
        "Names of optimizers go with --optimizer, flash_attention_2 with --attention; checkpointing is "
        "--gradient-checkpointing, adapter in the base's dtype --no-autocast-adapter-dtype. --json and --format csv "
        "have the options of each row.",
        Tone.QUIET,
    )
