"""A comparison as a document, as JSON of schema `inspector-comparison/1` and as CSV: a row for all that differs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TextIO

from inspector.errors import one_line
from inspector.records.comparison import Comparison, Figure, Setting
from inspector.records.report import to_plain
from inspector.render.document import (
    Column,
    Document,
    Kind,
    Paragraph,
    Row,
    Section,
    Table,
    Tone,
    column,
    paragraph,
    row,
)
from inspector.render.writers.spreadsheet import Cell, write_csv
from inspector.units import format_bytes, format_count
from inspector.workloads.registry import WORKLOADS

__all__ = ["SCHEMA", "build_comparison_document", "render_comparison_csv", "render_comparison_json"]

SCHEMA = "inspector-comparison/1"
_ABSENT = "–"
_LONGEST_CELL = 4000
# Headroom is shown for GPUs that somebody chose; a report without any has half a dozen common ones.
_MOST_GPUS = 3
# Recipes side by side in one table of narrow output.
_FEW = 2
_NAMES = {
    "parameters.base": "parameters",
    "parameters.total": "with the adapter",
    "parameters.trainable": "trained",
    "parameters.active": "active",
    "quantization.loaded_bytes": "weights as loaded",
    "adapter.file_bytes": "adapter file",
}
# Of what a run takes, behind the name of its workload.
_TOTAL = "total_bytes"
_NAMES_OF_A_RUN = {
    "peak_allocated_bytes": "peak allocated",
    "peak_reserved_bytes": "peak reserved",
    "overhead_bytes": "CUDA context",
    _TOTAL: "total",
    "end_of_step_allocated_bytes": "end of step",
}
_KEYS = ("parameters.trainable", "peak_allocated_bytes", _TOTAL)
_BREAKDOWN = "peak.breakdown."
_MOMENTS = ("peak.phase", "peak.op")
_PHASES = "phases."
_OUTCOME = ".outcome"
_WORKLOAD_KEYS = frozenset(info.report_key for info in WORKLOADS.values())
# Figures of an engine that are no bytes.
_NO_BYTES = re.compile(r"^serving\..*\.(tokens|concurrency_hundredths)\.")


def build_comparison_document(comparison: Comparison) -> Document:
    """Return what the recipes are, what differs in words and in figures, and what is equal."""
    letters = [recipe.letter for recipe in comparison.recipes]
    sections = [Section(title="", blocks=(_build_recipes(comparison),))]
    # The verdicts on GPUs that were named stand above.
    settings = [
        setting
        for setting in comparison.settings
        if (not _is_moment(setting.path) and not _is_verdict(setting.path))
        or (setting.path.endswith(_OUTCOME) and _is_of_a_common_gpu(comparison, setting.path))
    ]
    if settings:
        sections.append(Section(title="Settings that differ", blocks=(_build_settings(settings, letters),)))
    figures = [figure for figure in comparison.figures if not _is_of_a_common_gpu(comparison, figure.path)]
    if figures:
        sections.append(
            Section(title="Figures that differ", blocks=tuple(_list_figure_blocks(comparison, figures, letters)))
        )
    sections.append(Section(title="What is equal", blocks=tuple(_list_equal(comparison))))
    return Document(
        title=f"{len(letters)} recipes side by side",
        subtitle=(),
        sections=tuple(sections),
        warnings=tuple(
            paragraph(f"{', '.join(warning.recipes)}: {warning.message}").text for warning in comparison.warnings
        ),
        footer=one_line(", ".join(f"{name} {version}" for name, version in comparison.versions.items())),
    )


def render_comparison_json(comparison: Comparison, stream: TextIO) -> None:
    """Write the comparison to `stream` as one JSON object."""
    json.dump({"schema": SCHEMA, **to_plain(comparison)}, stream, indent=2, ensure_ascii=True, allow_nan=False)
    stream.write("\n")


def render_comparison_csv(comparison: Comparison, stream: TextIO) -> None:
    """Write a line for each setting and figure below a line of titles; what a recipe does not have is empty."""
    letters = [recipe.letter for recipe in comparison.recipes]
    rows: list[list[Cell]] = [["path", *letters, *(f"{letter}-A" for letter in letters[1:])]]
    for setting in comparison.settings:
        rows.append([setting.path, *map(setting.values.get, letters), *[None] * (len(letters) - 1)])
    for figure in comparison.figures:
        rows.append([figure.path, *map(figure.values.get, letters), *map(figure.differences.get, letters[1:])])
    write_csv(rows, stream)


def _format_setting(setting: Setting, letter: str) -> str:
    """Return a recipe's value in words: booleans in lower case, texts on one line."""
    value = setting.values.get(letter, _ABSENT)
    return str(value).lower() if isinstance(value, bool) else one_line(value, _LONGEST_CELL)


def _is_verdict(path: str) -> bool:
    """Tell whether a setting is whether a GPU fits, in a word or as what programs read."""
    return path.startswith("fit.") and path.endswith((_OUTCOME, ".fits"))


def _is_moment(path: str) -> bool:
    """Tell whether a path says where the peak is, which nobody sets."""
    return _strip_workload(path) in _MOMENTS


def _list_figure_blocks(
    comparison: Comparison, figures: Sequence[Figure], letters: Sequence[str]
) -> Iterator[Table | Paragraph]:
    """Yield the figures that differ, and of which moments those by category are."""
    yield _build_figures(figures, letters)
    if any(_strip_workload(figure.path).startswith(_BREAKDOWN) for figure in figures):
        moments = []
        for setting in comparison.settings:
            if _is_moment(setting.path) and len(set(setting.values.values())) > 1:
                found = ", ".join(f"{letter} {_format_setting(setting, letter)}" for letter in letters)
                moments.append(f"{_strip_workload(setting.path).removeprefix('peak.')}: {found}")
        where = f" ({'; '.join(moments)})" if moments else ""
        yield paragraph(f"Figures by category are those at each recipe's own peak{where}.", Tone.QUIET)


def _build_recipes(comparison: Comparison) -> Table:
    """Return a row for each recipe: its letter, what the step takes in all, how that differs, verdicts, what it is."""
    total = next((figure for figure in comparison.figures if _strip_workload(figure.path) == _TOTAL), None)
    gpus = list(dict.fromkeys(gpu for recipe in comparison.recipes for gpu in recipe.fit))
    are_named = len(gpus) <= _MOST_GPUS
    columns = [column("", Kind.LABEL)]
    if total is not None:
        columns += [column("total", Kind.NUMBER), column("to A", Kind.NUMBER)]
    columns += [column(f"fits {gpu}", Kind.LABEL) for gpu in gpus] if are_named else [column("fits", Kind.LABEL)]
    columns.append(column("recipe", Kind.WORDS))
    rows = []
    for recipe in comparison.recipes:
        cells = [recipe.letter]
        if total is not None:
            size, difference = total.values.get(recipe.letter), total.differences.get(recipe.letter)
            cells.append(_ABSENT if size is None else format_bytes(size))
            cells.append("" if difference is None else format_bytes(difference, signed=True))
        if are_named:
            cells += [recipe.fit.get(gpu, _ABSENT) for gpu in gpus]
        else:
            fitting = sum(outcome in ("yes", "tight") for outcome in recipe.fit.values())
            cells.append(f"{fitting} of {len(recipe.fit)} GPUs" if recipe.fit else _ABSENT)
        rows.append(row((*cells, recipe.name), tone=Tone.KEY))
    whole, last = tuple(range(len(columns))), len(columns) - 1
    start = last - (len(gpus) if are_named else 1)
    verdicts = tuple((0, index) for index in range(start, last))
    return Table(
        columns=tuple(columns), rows=tuple(rows), views=((whole,), ((*range(start), last), *verdicts)) if start else ()
    )


def _build_settings(settings: Sequence[Setting], letters: Sequence[str]) -> Table:
    """Return a row for each setting."""
    columns = (column("", Kind.NAME), *(column(letter, Kind.NAME) for letter in letters))
    rows = tuple(
        row((_name_setting(setting.path), *(_format_setting(setting, letter) for letter in letters)))
        for setting in settings
    )
    return Table(columns=columns, rows=rows, views=_list_views(len(columns), len(letters)))


def _build_figures(figures: Sequence[Figure], letters: Sequence[str]) -> Table:
    """Return a row for each figure that differs, with its differences to the first recipe."""
    columns: list[Column] = [column("", Kind.LABEL), *(column(letter, Kind.NUMBER) for letter in letters)]
    for letter in letters[1:]:
        columns += [column(f"{letter} - A", Kind.NUMBER), column("", Kind.NUMBER, quiet=True)]
    return Table(
        columns=tuple(columns),
        rows=tuple(_build_figure_row(figure, letters) for figure in figures),
        views=_list_views(len(columns), len(letters)),
    )


def _list_views(column_count: int, recipe_count: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return the views of a table: whole, values and differences apart, few recipes at a time, one of them."""
    values, differences = range(1, recipe_count + 1), range(recipe_count + 1, column_count)
    pieces = [(0, *part[start : start + _FEW]) for part in (values, differences) for start in range(0, len(part), _FEW)]
    apart = [(0, *part) for part in (values, differences) if part]
    single = [(0, index) for index in range(1, column_count)]
    return ((tuple(range(column_count)),), tuple(apart), tuple(pieces), tuple(single))


def _build_figure_row(figure: Figure, letters: Sequence[str]) -> Row:
    """Return the row of a figure; parameters are counts, all else is bytes."""
    values = [figure.values.get(letter) for letter in letters]
    cells = [_name_figure(figure.path), *(_ABSENT if value is None else format_count(value) for value in values)]
    is_count = figure.path.startswith("parameters.") or _NO_BYTES.search(figure.path) is not None
    for letter in letters[1:]:
        difference = figure.differences.get(letter)
        cells.append(_ABSENT if difference is None else format_count(difference, signed=True))
        cells.append("" if not difference or is_count else format_bytes(difference, signed=True))
    path = _strip_workload(figure.path)
    return row(cells, tone=Tone.KEY if path in _KEYS else Tone.PLAIN, depth=1 if path.startswith(_BREAKDOWN) else 0)


def _strip_workload(path: str) -> str:
    """Return a path without the name of the workload that its figure is of."""
    workload, _, rest = path.partition(".")
    return rest if workload in _WORKLOAD_KEYS else path


def _name_setting(path: str) -> str:
    """Return what people call a setting: the option that makes it, where there is one."""
    path = _strip_workload(path).removeprefix("recipe.").removeprefix("adapter.config.")
    if _is_verdict(path):
        return f"fits {path[len('fit.') : -len(_OUTCOME)]}"
    return path.replace(".", " ")


def _name_figure(path: str) -> str:
    """Return what people call a figure."""
    path = _strip_workload(path)
    names = {**_NAMES, **_NAMES_OF_A_RUN}
    if path in names:
        return names[path]
    if path.startswith(_BREAKDOWN):
        return path.removeprefix(_BREAKDOWN).replace("_", " ")
    if path.startswith(_PHASES):
        phase, _, key = path.removeprefix(_PHASES).partition(".")
        return f"{phase} {'peak' if key.startswith('peak') else 'end'}"
    if path.startswith("fit."):
        return f"headroom {path[len('fit.') : -len('.headroom_bytes')]}"
    return path


def _is_of_a_common_gpu(comparison: Comparison, path: str) -> bool:
    """Tell whether a path is of one of many GPUs, which nobody asked about."""
    gpus = [figure.path for figure in comparison.figures if figure.path.startswith("fit.")]
    gpus += [path for path in comparison.equal if path.startswith("fit.")]
    return path.startswith("fit.") and len(gpus) > _MOST_GPUS


def _list_equal(comparison: Comparison) -> Iterator[Paragraph]:
    """Yield one sentence on the figures that do not differ."""
    names = [_name_figure(path) for path in comparison.equal if not _is_of_a_common_gpu(comparison, path)]
    if not comparison.figures:
        yield paragraph("All figures.")
    elif names:
        yield paragraph(f"{', '.join(names)}.", Tone.QUIET)
    else:
        yield paragraph("No figure.", Tone.QUIET)
