"""Bytes that need no trace: what stays in memory for the whole of training, and rules of thumb beside it."""

from __future__ import annotations

from inspector.errors import one_line
from inspector.records.memory import StaticBytes, Textbook
from inspector.render.document import Kind, Paragraph, Section, Table, Tone, column, paragraph, row
from inspector.units import format_bytes, format_count

__all__ = ["build_static_section", "build_textbook_section"]

NOT_INCLUDED = (
    "Activations, kernel workspaces and the CUDA context are not in these figures: a training step needs more."
)


def build_static_section(static: StaticBytes) -> Section:
    """Return what stays in memory for the whole of training, by kind and recipe; every column adds up to its total."""
    recipes = [("full fine-tuning", static.full)]
    if static.adapter:
        recipes.append(("adapter", static.adapter))
    columns = [column("", Kind.NAME)]
    for title, _ in recipes:
        columns += [column(title, Kind.NUMBER), column("", Kind.NUMBER, quiet=True)]
    parts = (
        ("frozen weights", "frozen_bytes"),
        ("trained weights", "trained_bytes"),
        ("gradients", "gradients_bytes"),
        (f"optimizer {one_line(static.optimizer)}", "optimizer_bytes"),
        ("buffers", "buffers_bytes"),
        ("total", "total_bytes"),
    )
    rows = []
    for label, name in parts:
        sizes = [getattr(recipe, name) for _, recipe in recipes]
        cells = [cell for size in sizes for cell in (format_count(size), format_bytes(size))]
        rows.append(row((label, *cells), tone=Tone.TOTAL if label == "total" else Tone.PLAIN))
    views = (((0, 1, 2, 3, 4),), ((0, 1, 2), (0, 3, 4)), ((0, 2), (0, 4))) if static.adapter else ()
    table = Table(columns=tuple(columns), rows=tuple(rows), views=views)
    return Section(title="Static bytes of training", blocks=(table, paragraph(NOT_INCLUDED)))


def build_textbook_section(textbook: Textbook) -> Section:
    """Return each rule of thumb as a sum: the rule, what it misses, and the exact bytes."""
    blocks: list[Table | Paragraph] = []
    for rule in textbook.rules:
        columns = (
            column(rule.name, Kind.WORDS),
            column("bytes", Kind.NUMBER),
            column("", Kind.NUMBER, quiet=True),
        )
        rows = [row((f"rule {rule.formula}", format_count(rule.bytes), format_bytes(rule.bytes)))]
        rows += [
            row((item.cause, format_count(item.bytes, signed=True), format_bytes(item.bytes, signed=True)))
            for item in rule.differences
        ]
        total = ("exact", format_count(rule.exact_bytes), format_bytes(rule.exact_bytes))
        rows.append(row(total, tone=Tone.TOTAL))
        blocks.append(Table(columns=columns, rows=tuple(rows)))
    sources = dict.fromkeys(rule.source for rule in textbook.rules)
    blocks += [paragraph(f"Source: {source}", Tone.QUIET) for source in sources]
    return Section(title="Rules of thumb, and what they miss", blocks=tuple(blocks))
