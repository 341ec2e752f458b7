"""A measurement for people: predicted beside measured; and as the record that tests/evidence/truth takes as it is.

The record is JSON of schema `inspector-measurement/1` (docs/explain/measure.md).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, TextIO

from inspector.records.measurement import Figures, Measurement, RankFigures, find_first_large
from inspector.records.memory import MemoryPhase
from inspector.records.report import to_plain
from inspector.records.tape import Phase
from inspector.render.document import Document, Kind, Paragraph, Row, Section, Table, Tone, column, paragraph, row
from inspector.units import format_bytes, format_count

__all__ = ["SCHEMA", "build_measurement_document", "build_record", "render_measurement_json"]

SCHEMA = "inspector-measurement/1"
_ALWAYS_SHOWN = ("batch_size", "seq_len", "optimizer", "attention", "loop", "prompt_len", "new_tokens")


def build_measurement_document(measurement: Measurement) -> Document:
    """Return predicted beside measured as a document."""
    gpu, versions = measurement.gpu, measurement.versions
    capability = ".".join(map(str, gpu.compute_capability))
    driver = f", driver {gpu.driver}" if gpu.driver else ""
    return Document(
        title=f"{measurement.model['id']} on {gpu.name}",
        subtitle=(
            f"{measurement.model['class']}, {measurement.model['dtype']}, "
            f"{_describe_adapter(measurement)}{_describe_quantization(measurement)}; random weights",
            _describe_recipe(measurement),
            *_describe_launch(measurement),
            f"compute capability {capability}, {format_bytes(gpu.memory_bytes)}{driver}",
        ),
        sections=tuple(_build_sections(measurement)),
        warnings=tuple(measurement.notices),
        footer=", ".join(f"{name} {version}" for name, version in versions.items()),
    )


def build_record(measurement: Measurement) -> dict[str, Any]:
    """Return the measurement as a JSON object; keys that do not apply are absent."""
    values = {field.name: getattr(measurement, field.name) for field in dataclasses.fields(measurement)}
    shown: dict[str, Any] = {key: to_plain(value) for key, value in values.items() if value is not None}
    if measurement.workload is not None:
        read = measurement.workload.recipe_fields
        shown["workload"] = measurement.workload.name
        shown["recipe"] = {key: value for key, value in shown["recipe"].items() if key in read}
    for key in ("measured", "predicted"):
        # `to_plain` leaves out of phases what a report of two steps has no use for.
        shown[key]["phases"] = [_record_phase(phase) for phase in values[key].phases]
        for other, plain in zip(measurement.others, shown["others"], strict=True):
            plain[key]["phases"] = [_record_phase(phase) for phase in getattr(other, key).phases]
    for key in ("differing", "notices", "others"):
        if not shown[key]:
            del shown[key]
    return {"schema": SCHEMA, "source": "inspect measure", **shown}


def render_measurement_json(measurement: Measurement, stream: TextIO) -> None:
    """Write the record to `stream` as one JSON object."""
    json.dump(build_record(measurement), stream, indent=2, ensure_ascii=True, default=str)
    stream.write("\n")


def _record_phase(phase: MemoryPhase) -> dict[str, Any]:
    """Return every figure of a phase."""
    plain = {key: value for key, value in dataclasses.asdict(phase).items() if value is not None}
    return {**plain, "name": phase.name.value}


def _build_sections(measurement: Measurement) -> Iterator[Section]:
    """Yield the answer, the figures of every phase, and where history and tape part."""
    predicted, measured = measurement.predicted, measurement.measured
    yield Section(title="", blocks=(_build_answers(predicted, measured), *_describe_verdict(measurement)))
    if measurement.others:
        yield Section(title="Each rank", blocks=(_build_ranks(measurement),))
    taken = {(phase.step, phase.name): phase for phase in measured.phases}
    pairs = [(phase, taken[phase.step, phase.name]) for phase in predicted.phases if (phase.step, phase.name) in taken]
    for title, kind in (("Allocated", "allocated"), ("Reserved", "reserved")):
        rows = [
            _build_row(f"{_format_moment(before)}, {when}", getattr(before, key), getattr(after, key))
            for before, after in pairs
            for when, key in (("peak", f"peak_{kind}_bytes"), ("end", f"end_{kind}_bytes"))
        ]
        yield Section(title=f"{title} by phase", blocks=(_build_table(rows),))
    if measurement.differing:
        yield Section(title="Where the allocator's history and the tape part", blocks=_build_places(measurement))


def _describe_quantization(measurement: Measurement) -> str:
    """Return how the base is quantized, nothing where it is not."""
    if measurement.quantization is None:
        return ""
    twice = ", double quantization" if measurement.quantization.get("double_quant") else ""
    return f" on {measurement.quantization['method']}{twice}"


def _describe_adapter(measurement: Measurement) -> str:
    """Return which adapter there is, and what runs where there is none."""
    if measurement.adapter is not None:
        return str(measurement.adapter["peft_type"])
    return "full fine-tuning" if measurement.workload is None else measurement.workload.label


def _describe_launch(measurement: Measurement) -> Iterator[str]:
    """Yield which rank of how many was measured, nothing where there is one card."""
    launch = measurement.launch
    if launch is None:
        return
    alone = "; the other ranks are not there, and send nothing" if launch["group"] == "fake" else ""
    strategy = launch["strategy"].replace("_", " ")
    yield f"rank {launch['rank']} of {launch['world_size']}, {strategy}, by {launch['group']}{alone}"


def _describe_recipe(measurement: Measurement) -> str:
    """Return the options of a recipe that are not the default, and those that one always wants to know."""
    recipe, workload = measurement.recipe, measurement.workload
    names = {field.name for field in dataclasses.fields(recipe)} - {"new_tokens"}
    read = names if workload is None else workload.recipe_fields
    shown = []
    for field in dataclasses.fields(recipe):
        if field.name not in read:
            continue
        value = getattr(recipe, field.name)
        if value is not None and (field.name in _ALWAYS_SHOWN or value != field.default):
            shown.append(f"{field.name.replace('_', ' ')} {value}")
    return ", ".join(shown)


def _build_answers(predicted: Figures, measured: Figures) -> Table:
    """Return the peaks, the end of a step and the process, predicted beside measured, in bytes."""
    rows = [
        _build_row("peak allocated", predicted.peak_allocated_bytes, measured.peak_allocated_bytes),
        _build_row("peak reserved", predicted.peak_reserved_bytes, measured.peak_reserved_bytes),
        _build_row(
            "end of step, allocated", predicted.end_of_step_allocated_bytes, measured.end_of_step_allocated_bytes
        ),
    ]
    if predicted.process_bytes is not None:
        rows.append(_build_row("nvidia-smi, this process", predicted.process_bytes, measured.process_bytes))
    return _build_table(rows, key=True)


def _build_ranks(measurement: Measurement) -> Table:
    """Return the peaks of every rank, and where its history and its tape part first."""
    own = RankFigures(
        rank=0 if measurement.launch is None else measurement.launch["rank"],
        gpu=measurement.gpu,
        measured=measurement.measured,
        predicted=measurement.predicted,
        differing=measurement.differing,
    )
    columns = (
        column("rank", Kind.LABEL),
        column("peak allocated", Kind.NUMBER),
        column("difference", Kind.NUMBER),
        column("peak reserved", Kind.NUMBER),
        column("difference", Kind.NUMBER),
        column("differs first", Kind.NAME),
    )
    rows = []
    for item in sorted([own, *measurement.others], key=lambda item: item.rank):
        figures = [
            (getattr(item.predicted, name), getattr(item.measured, name))
            for name in ("peak_allocated_bytes", "peak_reserved_bytes")
        ]
        cells = [
            text
            for predicted, taken in figures
            for text in (format_count(taken), format_count(predicted - taken, signed=True))
        ]
        is_equal = _list_phases(item.predicted) == _list_phases(item.measured)
        rows.append(row((str(item.rank), *cells, _name_first(item)), tone=Tone.PLAIN if is_equal else Tone.WARN))
    views = ((0, 1, 2, 3, 4, 5), (0, 1, 2, 4, 5), (0, 2, 4, 5))
    return Table(columns=columns, rows=tuple(rows), views=tuple((view,) for view in views))


def _name_first(item: RankFigures) -> str:
    """Return the operation that differs first on a rank, a dash where none does."""
    found = find_first_large(item.differing)
    return "–" if found is None else f"{found.op or 'a free'}, {found.phase.value} of step {found.step}"


def _list_phases(figures: Figures) -> list[dict[str, Any]]:
    """Return the phases as a record has them."""
    return [_record_phase(phase) for phase in figures.phases]


def _build_table(rows: list[Row], *, key: bool = False) -> Table:
    """Return rows of predicted, measured and difference, in bytes."""
    columns = (
        column("", Kind.LABEL),
        column("predicted", Kind.NUMBER),
        column("measured", Kind.NUMBER),
        column("difference", Kind.NUMBER),
    )
    shown = tuple(dataclasses.replace(figure, tone=Tone.KEY) for figure in rows) if key else tuple(rows)
    return Table(columns=columns, rows=shown, views=(((0, 1, 2, 3),), ((0, 1, 3),), ((0, 3),)))


def _build_row(what: str, predicted: int, measured: int | None) -> Row:
    """Return one figure; what could not be measured is a dash."""
    if measured is None:
        return row((what, format_count(predicted), "–", "–"))
    return row(
        (what, format_count(predicted), format_count(measured), format_count(predicted - measured, signed=True)),
        tone=Tone.PLAIN if predicted == measured else Tone.WARN,
    )


def _describe_verdict(measurement: Measurement) -> Iterator[Paragraph]:
    """Yield what the difference column says: that all is 0, or the name of what differs first."""
    if _list_phases(measurement.predicted) == _list_phases(measurement.measured):
        yield paragraph("Every peak and every end of loading and of each phase is as predicted, to the byte.", Tone.KEY)
        return
    found = measurement.first_large
    if found is None:
        yield paragraph(
            "The sizes and their order are as predicted: the blocks that the allocator took for them are not.",
            Tone.WARN,
        )
        return
    where = f" in {found.module}" if found.module else ""
    yield paragraph(
        f"The first allocation that differs: {found.op or 'a free'}{where}, {found.phase.value} of step {found.step}; "
        f"measured {_format_sizes(found.measured)}, predicted {_format_sizes(found.predicted)}.",
        Tone.WARN,
    )


def _build_places(measurement: Measurement) -> tuple[Table, ...]:
    """Return the first places where history and tape part."""
    columns = (
        column("step", Kind.LABEL),
        column("op", Kind.NAME),
        column("module", Kind.NAME),
        column("measured", Kind.WORDS),
    )
    rows = [
        row(
            (
                f"{place.step} {place.phase.value}",
                place.op,
                place.module,
                f"{_format_sizes(place.measured)}; predicted {_format_sizes(place.predicted)}",
            )
        )
        for place in measurement.differing
    ]
    hidden = measurement.differing_count - len(rows)
    if hidden > 0:
        rows.append(row(("", f"and {hidden:,} more", "", "")))
    return (Table(columns=columns, rows=tuple(rows)),)


def _format_sizes(sizes: Any) -> str:
    """Return signed sizes in words."""
    return " ".join(f"{size:+,}" for size in sizes) or "nothing"


def _format_moment(phase: MemoryPhase) -> str:
    """Return which phase of which step this is."""
    return "load" if phase.name is Phase.LOAD else f"step {phase.step} {phase.name.value}"
