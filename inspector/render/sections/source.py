"""The files that a request was read from: what a framework makes of their fields, and what of them is not modelled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inspector.errors import one_line
from inspector.records.training_file import Effect, Origin, RequestSource, TrainingFile
from inspector.render.document import Block, Kind, Section, Table, Tone, column, paragraph, row

__all__ = ["build_source_sections", "describe_source", "format_fields"]

_VERSIONS = {
    "option": "the version that was asked for",
    "installed": "the version that is installed",
    "newest": "the newest version that is known here",
}
_LONGEST_VALUE = 80
# What of the fields that are not modelled stands under the title.
_MOST_MISSED = 6


def describe_source(source: RequestSource) -> Iterator[str]:
    """Yield a line a file: whose it is, and how much of it is read, taken by default and not modelled."""
    for record in _list_records(source):
        counts = [_format_number(record.count(Origin.FILE), "field")]
        if record.count(Origin.OPTION):
            counts.append(f"{record.count(Origin.OPTION)} by options")
        counts.append(_format_number(record.count(Origin.DEFAULT), "default"))
        counts.append(f"{len(record.not_modelled)} not modelled")
        stage = f", {record.stage}" if record.stage not in (None, "sft") else ""
        whose = f"{record.framework} {one_line(record.version, 20)}{stage}"
        yield f"{_name(record)} as {whose} reads it: {', '.join(counts)}"
        if record.not_modelled:
            yield f"not modelled: {_describe_missed(record)}"


def build_source_sections(source: RequestSource) -> Iterator[Section]:
    """Yield a section a file, with each of its fields."""
    for record in _list_records(source):
        yield _build_section(record)


def format_fields(fields: Mapping[str, Any]) -> str:
    """Return fields as a training file has them: `micro_batch_size: 2`."""
    return ", ".join(f"{one_line(name, 60)}: {format_value(value)}" for name, value in fields.items())


def format_value(value: Any) -> str:
    """Return a value as a file has it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return one_line(text, _LONGEST_VALUE)


def _format_number(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _name(record: TrainingFile) -> str:
    """Return the name of a file without its folder."""
    return one_line(Path(record.path).name, 60)


def _describe_missed(record: TrainingFile) -> str:
    """Return the fields that are not modelled by the direction in which they change memory."""
    shown = record.not_modelled[:_MOST_MISSED]
    parts = []
    for effect in Effect:
        names = [one_line(item.name, 40) for item in shown if item.effect is effect]
        if names:
            parts.append(f"{', '.join(names)} ({effect.direction})")
    rest = len(record.not_modelled) - len(shown)
    return "; ".join(parts) + (f"; {rest} more" if rest else "")


def _list_records(source: RequestSource) -> tuple[TrainingFile, ...]:
    return (*((source.file,) if source.file else ()), *source.launch)


def _build_section(record: TrainingFile) -> Section:
    """Return the fields of a file, what is not modelled, and whose defaults hold."""
    columns = (column("field", Kind.NAME), column("value", Kind.WORDS), column("from", Kind.LABEL))
    rows = tuple(row((one_line(item.name, 60), format_value(item.value), item.origin.value)) for item in record.fields)
    blocks: list[Block] = [Table(columns=columns, rows=rows)]
    if record.not_modelled:
        missing = (column("not modelled", Kind.NAME), column("effect", Kind.LABEL), column("why", Kind.WORDS))
        missed = tuple(
            row((one_line(item.name, 60), item.effect.direction, one_line(item.why, 120)), tone=Tone.WARN)
            for item in record.not_modelled
        )
        blocks.append(Table(columns=missing, rows=missed))
    words = (
        f"Defaults are those of {record.framework} {one_line(record.version, 20)}, {_VERSIONS[record.version_from]}."
    )
    if record.unknown:
        words += f" Not known and not read: {', '.join(record.unknown)}."
    blocks.append(paragraph(words, Tone.QUIET))
    return Section(title=f"What {_name(record)} says", blocks=tuple(blocks))
