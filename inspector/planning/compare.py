"""Reports side by side: which settings and which figures of two or more of them differ, and by how much.

A report is its JSON (schema `inspector/1`), whether it was made just now or read from a file that somebody hands over;
so nothing is taken for granted but that it is an object. Standard library only.

Does not cover: the module tree, the checkpoint, rules of thumb, and what lives where at the peak.
"""

from __future__ import annotations

import dataclasses
import json
import math
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from inspector.errors import UsageError, one_line, quoted
from inspector.records.comparison import Compared, Comparison, Figure, Setting, SharedNotice
from inspector.records.fit import Fit
from inspector.records.report import SCHEMA
from inspector.records.tape import Category
from inspector.runtime.stage import Stage
from inspector.workloads.registry import WORKLOADS

__all__ = ["MOST_RECIPES", "compare_reports", "prefix_stages"]

MOST_RECIPES = 8
_OF_THE_PEAK = ("peak.phase", "peak.op")
_SETTINGS = (
    *("model.id", "model.adapter_id", "model.revision", "model.class", "model.dtype"),
    *("quantization.method", "quantization.double_quant", "quantization.compute_dtype"),
    "quantization.preparation",
    *("adapter.type", "adapter.config", "adapter.autocast_adapter_dtype", "adapter.dtype"),
    *(f"{info.report_key}.{path}" for info in WORKLOADS.values() for path in ("recipe", "platform", *_OF_THE_PEAK)),
    *("serving.engine", "serving.rules_of", "serving.options"),
    "versions",
)
_OF_A_RUN = (
    "peak_allocated_bytes",
    *(f"peak.breakdown.{category.value}" for category in Category),
    *("peak_reserved_bytes", "overhead_bytes", "total_bytes"),
)
_FIGURES = (
    *("parameters.base", "parameters.total", "parameters.trainable", "parameters.active"),
    *("quantization.loaded_bytes", "adapter.file_bytes"),
    *(f"{info.report_key}.{path}" for info in WORKLOADS.values() for path in _OF_A_RUN),
    *("cache.bytes_per_token", "cache.at_end_bytes"),
    *("serving.weights_bytes.low", "serving.weights_bytes.high", "serving.bytes_per_token", "serving.request_bytes"),
)
# What an engine's verdict on a card says, each from a least to a most.
_OF_AN_ENGINE = ("cache_bytes", "tokens", "concurrency_hundredths")
_OUTCOMES = tuple(outcome.value for outcome in Fit)
_LONGEST_TEXT = 200
_LONGEST_NAME = 60
_Scalar = str | bool | int | float


def compare_reports(reports: Sequence[tuple[str, Mapping[str, Any]]], versions: Mapping[str, str]) -> Comparison:
    """Return what differs between reports, each given with its name.

    `versions` are those of the program that compares. Raises UsageError where one is no report.
    """
    if not 2 <= len(reports) <= MOST_RECIPES:
        raise UsageError(f"{len(reports)} recipes cannot be compared: give 2 to {MOST_RECIPES}.")
    recipes = [
        Compared(letter=letter, name=name, fit=dict(_list_verdicts(report)))
        for letter, (name, report) in zip(string.ascii_uppercase, reports, strict=False)
    ]
    for name, report in reports:
        if report.get("schema") != SCHEMA:
            raise UsageError(f"{quoted(name)} is no report of schema {SCHEMA}; write one with inspect MODEL --json.")
        if _read_path(report, "parameters.base") is None:
            raise UsageError(f"{quoted(name)} is no sound report: it counts no parameters; make it anew with --json.")
    settings = _collect_values(recipes, [dict(_list_settings(report)) for _, report in reports])
    columns = [dict(_list_figures(name, report)) for name, report in reports]
    figures = _collect_values(recipes, columns)
    return Comparison(
        versions=versions,
        recipes=[
            dataclasses.replace(recipe, breakdown=_find_breakdown(column), usable_bytes=dict(_list_usable(report)))
            for recipe, column, (_, report) in zip(recipes, columns, reports, strict=True)
        ],
        settings=[
            Setting(path=path, values=values) for path, values in settings.items() if _differs(values, len(recipes))
        ],
        figures=[_build_figure(path, values) for path, values in figures.items() if _differs(values, len(recipes))],
        equal=[path for path, values in figures.items() if not _differs(values, len(recipes))],
        warnings=_collect_warnings(recipes, [report for _, report in reports]),
    )


def prefix_stages(progress: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    """Return what reports a stage of one of several inspections."""
    return lambda stage: progress(stage.put_behind(prefix) if isinstance(stage, Stage) else f"{prefix}: {stage}")


def _collect_values(recipes: Sequence[Compared], columns: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the values of each path by the letters of the recipes, paths in the order in which they come."""
    paths = dict.fromkeys(path for column in columns for path in column)
    return {
        path: {recipe.letter: column[path] for recipe, column in zip(recipes, columns, strict=True) if path in column}
        for path in sorted(paths, key=_find_place)
    }


def _find_place(path: str) -> int:
    """Return where a path belongs: a report that lacks some keys does not move the others."""
    for index, known in enumerate((*_SETTINGS, *_FIGURES)):
        if path == known or path.startswith(f"{known}."):
            return index
    return len(_SETTINGS) + len(_FIGURES)


def _differs(values: Mapping[str, Any], count: int) -> bool:
    """Tell whether not all of `count` recipes have the value, or not the same."""
    return len(values) < count or len({json.dumps(value) for value in values.values()}) > 1


def _build_figure(path: str, values: Mapping[str, int]) -> Figure:
    """Return a figure with what each recipe has more of it than the first."""
    first = values.get("A")
    differences = {} if first is None else {letter: value - first for letter, value in values.items() if letter != "A"}
    return Figure(path=path, values=values, differences=differences)


def _list_settings(report: Mapping[str, Any]) -> Iterator[tuple[str, _Scalar]]:
    """Yield the settings of a report, and on which GPUs it fits."""
    for path in _SETTINGS:
        value = _read_path(report, path)
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield f"{path}.{_clean_key(key)}", _to_scalar(inner)
        elif value is not None:
            yield path, _to_scalar(value)
    for gpu, verdict in _list_members(report, "fit", "gpu"):
        if isinstance(verdict.get("fits"), bool):
            yield f"fit.{gpu}.fits", verdict["fits"]


def _list_verdicts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the verdict of each GPU of a report in a word."""
    for gpu, verdict in (*_list_members(report, "fit", "gpu"), *_list_engine_verdicts(report)):
        outcome, fits = verdict.get("outcome"), verdict.get("fits")
        if isinstance(outcome, str) and outcome in _OUTCOMES:
            yield gpu, outcome
        elif isinstance(fits, bool):
            yield gpu, "yes" if fits else "no"


def _list_engine_verdicts(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what an engine leaves on each GPU of a report."""
    serving = report.get("serving")
    return _list_members(serving, "verdicts", "gpu") if isinstance(serving, Mapping) else []


def _find_breakdown(figures: Mapping[str, int]) -> dict[str, int]:
    """Return what lives at the peak by category."""
    return {path.rpartition(".")[2]: value for path, value in figures.items() if ".peak.breakdown." in path}


def _list_usable(report: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield what the allocator has on each GPU of a report."""
    for gpu, verdict in _list_members(report, "fit", "gpu"):
        usable = verdict.get("usable_bytes")
        if isinstance(usable, int) and not isinstance(usable, bool):
            yield gpu, usable


def _list_figures(name: str, report: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the figures of a report; raise UsageError where one is no integer."""
    found: list[tuple[str, Any]] = [(path, _read_path(report, path)) for path in _FIGURES]
    for workload in WORKLOADS.values():
        memory = _read_path(report, workload.report_key)
        phases = dict(_list_members(memory, "phases", "name")) if isinstance(memory, Mapping) else {}
        for phase in workload.phases:
            for key in ("peak_allocated_bytes", "end_allocated_bytes"):
                path = f"{workload.report_key}.phases.{phase.value}.{key}"
                found.append((path, phases.get(phase.value, {}).get(key)))
        path = f"{workload.report_key}.end_of_step_allocated_bytes"
        found.append((path, _read_path(report, path)))
    for gpu, verdict in _list_members(report, "fit", "gpu"):
        found.append((f"fit.{gpu}.headroom_bytes", verdict.get("headroom_bytes")))
    for gpu, verdict in _list_engine_verdicts(report):
        for path in (f"{name}.{end}" for name in _OF_AN_ENGINE for end in ("low", "high")):
            found.append((f"serving.{gpu}.{path}", _read_path(verdict, path)))
    for path, value in found:
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"{quoted(name)} is no sound report: {path} is no integer; make it anew with --json.")
        yield path, value


def _read_path(report: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path of a report, None where there is none."""
    value: Any = report
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _list_members(parent: Mapping[str, Any], key: str, name: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the objects of a list by their names, those without one left out."""
    members = parent.get(key)
    if not isinstance(members, (list, tuple)):
        return []
    return [
        (_clean_key(member[name]), member)
        for member in members
        if isinstance(member, Mapping) and isinstance(member.get(name), str)
    ]


def _clean_key(key: object) -> str:
    """Return a key as a part of a path: one line of at most `_LONGEST_NAME` characters."""
    return one_line(key, _LONGEST_NAME)


def _to_scalar(value: Any) -> _Scalar:
    """Return a value that fits a cell: lists and objects as JSON."""
    if isinstance(value, (bool, int, float)) and math.isfinite(value):
        return value
    return one_line(value if isinstance(value, str) else json.dumps(value, default=str), _LONGEST_TEXT)


def _collect_warnings(recipes: Sequence[Compared], reports: Sequence[Mapping[str, Any]]) -> list[SharedNotice]:
    """Return the warnings of all reports, each once."""
    letters_of: dict[str, list[str]] = {}
    for recipe, report in zip(recipes, reports, strict=True):
        for _, warning in _list_members(report, "warnings", "message"):
            letters = letters_of.setdefault(one_line(warning["message"], 10 * _LONGEST_TEXT), [])
            if recipe.letter not in letters:
                letters.append(recipe.letter)
    return [SharedNotice(recipes=letters, message=message) for message, letters in letters_of.items()]
