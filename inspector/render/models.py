"""The catalogue of models as a document, as CSV, and as JSON of schema `inspector-models/1`, which also has sources."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TextIO

from inspector.records.source import CatalogueEntry
from inspector.render.document import Document, Kind, Row, Section, Table, column, paragraph, row
from inspector.render.writers.spreadsheet import write_csv
from inspector.units import format_count, format_short_count

__all__ = ["SCHEMA", "build_models_document", "render_models_csv", "render_models_json"]

SCHEMA = "inspector-models/1"
MEANING = (
    "Parameters are the published count, which inspect MODEL holds against its own, P. Where the two differ, there is "
    "a reason beside it: a checkpoint may hold more than the model. --json has the reason in full and the source."
)


def build_models_document(entries: Sequence[CatalogueEntry]) -> Document:
    """Return the models as one table."""
    columns = (
        column("model", Kind.LABEL),
        column("type", Kind.LABEL),
        column("parameters", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("P", Kind.LABEL),
    )
    views = (((0, 1, 2, 3, 4),), ((0, 1, 3),), ((0, 3),))
    table = Table(columns=columns, rows=tuple(map(_build_row, entries)), views=views)
    return Document(
        title="Models that are known without network",
        subtitle=("any other model of the Hub, and any folder with a config.json, can be inspected too",),
        sections=(
            Section(title="", blocks=(table,)),
            Section(title="What the columns mean", blocks=(paragraph(MEANING),)),
        ),
        warnings=(),
        footer=f"{len(entries)} models",
    )


def render_models_json(entries: Sequence[CatalogueEntry], stream: TextIO) -> None:
    """Write the models to `stream` as one JSON object."""
    from inspector.records.report import to_plain  # with it come all records

    json.dump({"schema": SCHEMA, "models": [to_plain(entry) for entry in entries]}, stream, indent=2, ensure_ascii=True)
    stream.write("\n")


def render_models_csv(entries: Sequence[CatalogueEntry], stream: TextIO) -> None:
    """Write a line for each model to `stream`."""
    titles = ("id", "model_type", "parameters", "differs_from_p")
    lines = [
        (entry.id, entry.model_type, entry.published.parameters, entry.published.explanation is not None)
        for entry in entries
    ]
    write_csv((titles, *lines), stream)


def _build_row(entry: CatalogueEntry) -> Row:
    """Return the row of a model."""
    published = entry.published
    return row(
        (
            entry.id,
            entry.model_type,
            format_count(published.parameters),
            format_short_count(published.parameters),
            "the same" if published.explanation is None else "differs",
        )
    )
