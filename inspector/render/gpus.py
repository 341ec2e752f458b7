"""The catalogue of GPUs as a document, and as JSON of schema `inspector-gpus/1`, which also has sources and notes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TextIO

from inspector.records.hardware import Gpu, MemoryFigure
from inspector.render.document import Document, Kind, Paragraph, Row, Section, Table, Tone, column, paragraph, row
from inspector.units import format_bytes, format_count

__all__ = ["SCHEMA", "build_gpus_document", "render_gpus_json"]

SCHEMA = "inspector-gpus/1"

_FIGURES = {
    MemoryFigure.TORCH: "torch",
    MemoryFigure.DRIVER: "driver",
    MemoryFigure.NOMINAL: "nominal",
    MemoryFigure.APPROXIMATION: "about",
    MemoryFigure.STATED: "stated",
}
_UNKNOWN = "–"
MEANINGS = (
    "Memory is the total as torch reports it, the lowest seen; where no such figure is known, the driver's, or else "
    "the nominal one of the data sheet, of which torch gets some hundred MiB less. Context is what a process takes "
    "outside torch's allocator, where that was measured. A dash is a fact that is not known. --json has "
    "the source of each figure."
)


def build_gpus_document(gpus: Sequence[Gpu]) -> Document:
    """Return the catalogue as a table for each family."""
    families = dict.fromkeys(gpu.family for gpu in gpus)
    sections = [_build_section(family, [gpu for gpu in gpus if gpu.family == family]) for family in families]
    return Document(
        title="GPUs that --gpu knows",
        subtitle=("names match in any case, with and without blanks and hyphens; --gpu-memory 24GiB is for others",),
        sections=(*sections, Section(title="What the columns mean", blocks=(paragraph(MEANINGS),))),
        warnings=(),
        footer="1 GPU" if len(gpus) == 1 else f"{len(gpus)} GPUs",
    )


def render_gpus_json(gpus: Sequence[Gpu], stream: TextIO) -> None:
    """Write the catalogue to `stream` as one JSON object."""
    from inspector.records.report import to_plain  # with it come all records

    json.dump({"schema": SCHEMA, "gpus": [to_plain(gpu) for gpu in gpus]}, stream, indent=2, ensure_ascii=True)
    stream.write("\n")


def _build_section(family: str, gpus: Sequence[Gpu]) -> Section:
    """Return the table of a family, and what a verdict on its members assumes."""
    columns = (
        column("GPU", Kind.LABEL),
        column("memory bytes", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("as of", Kind.LABEL),
        column("capability", Kind.NUMBER),
        column("SMs", Kind.NUMBER),
        column("context", Kind.NUMBER),
    )
    views = (((0, 1, 2, 3, 4, 5, 6),), ((0, 2, 3, 4, 5, 6),), ((0, 2, 3, 4),), ((0, 2),))
    blocks: list[Table | Paragraph] = [Table(columns=columns, rows=tuple(map(_build_row, gpus)), views=views)]
    blocks += [paragraph(text, Tone.QUIET) for text in dict.fromkeys(gpu.approximates for gpu in gpus) if text]
    return Section(title=family, blocks=tuple(blocks))


def _build_row(gpu: Gpu) -> Row:
    """Return the row of a GPU; a fact that is not known is a dash."""
    capability = gpu.compute_capability
    return row(
        (
            gpu.name,
            format_count(gpu.memory_bytes),
            format_bytes(gpu.memory_bytes),
            _FIGURES[gpu.memory_figure],
            _UNKNOWN if capability is None else f"{capability[0]}.{capability[1]}",
            _UNKNOWN if gpu.multiprocessors is None else format_count(gpu.multiprocessors),
            _UNKNOWN if gpu.context_bytes is None else format_bytes(gpu.context_bytes),
        )
    )
