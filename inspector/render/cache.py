"""What is kept of earlier questions as a document, and as JSON of schema `inspector-cache/1`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from inspector.cache.store import MOST_BYTES, VARIABLE, Entry
from inspector.render.document import Document, Kind, Row, Section, Table, column, paragraph, row
from inspector.units import format_bytes, format_count

__all__ = ["SCHEMA", "build_cache_document", "render_cache_json"]

SCHEMA = "inspector-cache/1"


def build_cache_document(folder: Path | None, entries: Sequence[Entry]) -> Document:
    """Return what is kept as a table, a row for each model, the one that was asked for last first."""
    if folder is None:
        section = Section(title="", blocks=(paragraph(f"{VARIABLE} turns the cache off: nothing is kept."),))
        return Document(title="Kept answers", subtitle=(), sections=(section,), warnings=(), footer="")
    columns = (
        column("model", Kind.NAME),
        column("kept", Kind.NUMBER),
        column("size", Kind.NUMBER),
        column("last used", Kind.LABEL),
    )
    models = _sum_up(entries)
    table = Table(columns=columns, rows=tuple(map(_build_row, models)), views=(((0, 1, 2, 3),), ((0, 2),)))
    empty = paragraph("Nothing is kept yet.")
    size = format_bytes(sum(entry.bytes for entry in entries))
    return Document(
        title="Kept answers",
        subtitle=(str(folder),),
        sections=(Section(title="", blocks=(table if models else empty,)),),
        warnings=(),
        footer=f"{size} of at most {format_bytes(MOST_BYTES)}; inspect cache clear removes it",
    )


def render_cache_json(folder: Path | None, entries: Sequence[Entry], stream: TextIO) -> None:
    """Write what is kept to `stream` as one JSON object; times are UTC."""
    content: dict[str, Any] = {"schema": SCHEMA}
    if folder is not None:
        content |= {"folder": str(folder), "bytes": sum(entry.bytes for entry in entries), "most_bytes": MOST_BYTES}
    json.dump({**content, "models": _sum_up(entries)}, stream, indent=2, ensure_ascii=True)
    stream.write("\n")


def _sum_up(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return what is kept of each model, the one that was used last first."""
    by_model: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_model[str(entry.about.get("model", ""))].append(entry)
    models = sorted(by_model.items(), key=lambda item: -max(entry.used for entry in item[1]))
    return [
        {
            "model": model,
            "kept": len(own),
            "bytes": sum(entry.bytes for entry in own),
            "last_used": _format_time(max(entry.used for entry in own)),
        }
        for model, own in models
    ]


def _build_row(model: dict[str, Any]) -> Row:
    """Return the row of a model."""
    return row((model["model"], format_count(model["kept"]), format_bytes(model["bytes"]), model["last_used"]))


def _format_time(seconds: float) -> str:
    """Return a time of the epoch in UTC to the minute, or what stands for one that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return "–"
