"""`inspect sweep`: one recipe on a list of models, a row for each; what fails is a row, too.

Rows are written as they are there, so that a sweep that was interrupted goes on where it was: a model that has a row
with the same options is not asked again. Nothing is kept of a model that is done, neither here nor in the processes
that work, which are replaced from time to time (`runtime.workers`).
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from inspector.errors import InspectorError, one_line
from inspector.hardware.selection import select_gpus
from inspector.records.report import Report
from inspector.records.request import Request
from inspector.runtime.patches import replace_item, restore_changes
from inspector.runtime.workers import Killed, work_in_processes

__all__ = ["COLUMNS", "Row", "list_columns", "read_models", "sweep"]

# What a row says; behind them come the cards that were named, one column each.
COLUMNS = (
    *("model", "options", "error", "class", "type", "dtype", "source", "parameters", "trained"),
    *("weights_bytes", "adapter_file_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "total_bytes", "bound"),
)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A model to inspect as a request says, and whether the cache directory is used."""

    request: Request
    keeps: bool


def read_models(lines: Iterable[str]) -> Iterator[str]:
    """Yield the models of a list, one a line; blank lines and what stands behind a # are none, nor is a second one."""
    seen = set()
    for line in lines:
        model = line.partition("#")[0].strip()
        if model and model not in seen:
            seen.add(model)
            yield model


def list_columns(request: Request) -> tuple[str, ...]:
    """Return the columns of a sweep: those of every one, and the cards that a request names."""
    selection = select_gpus(request)
    return (*COLUMNS, *(f"fits {name}" for name in _name_cards(selection.gpus, selection.counts, selection.named)))


def sweep(
    request: Request,
    models: Iterable[str],
    *,
    options: str,
    jobs: int,
    keeps: bool,
    name_settings: Callable[[str], str] = str,
) -> Iterator[Row]:
    """Yield a row for each model under the settings of a request, in the order in which they are done.

    `options` is what a row says of the settings. `name_settings` spells those that messages name.
    """
    remaining = iter(models)
    first = next(remaining, None)
    if first is None:
        return
    with restore_changes():
        # No GPU is used, and a driver that has started does not survive a fork.
        replace_item(os.environ, "CUDA_VISIBLE_DEVICES", "")
        for module in ("inspector.predict.tracing", "inspector.planning.verdicts"):
            importlib.import_module(module)  # once, for all processes that are forked
        tasks = (
            _Task(request=dataclasses.replace(request, model=model), keeps=keeps)
            for model in itertools.chain((first,), remaining)
        )
        for task, found in work_in_processes(_inspect, tasks, jobs):
            row: Row = {"model": task.request.model, "options": options}
            if isinstance(found, Killed):
                found = "its process was killed, as a system short of memory does; try it alone"
            if isinstance(found, str):
                yield row | {"error": name_settings(found)}
            else:
                yield row | found


def _inspect(task: _Task) -> Row | str:
    """Return what a row says of a model, or why there is nothing to say; in a process of many."""
    from inspector.pipeline import run

    try:
        return _describe(run(task.request, keeps=task.keeps), task.request)
    except InspectorError as error:
        return one_line(error, 400)
    except Exception as error:  # of one model; the others are worth knowing
        return f"internal error, {type(error).__name__}: {one_line(error, 300)}"


def _describe(report: Report, request: Request) -> Row:
    """Return the columns of a report."""
    memory, census, adapter = report.memory, report.parameters, report.adapter
    row: Row = {
        "class": report.model.model_class,
        "type": report.model.model_type,
        "dtype": report.model.dtype,
        "source": report.model.source.value,
        "parameters": census.base,
        "trained": census.trainable,
        "weights_bytes": census.bytes,
        "adapter_file_bytes": None if adapter is None else adapter.file_bytes,
    }
    if memory is not None:
        row |= {
            "peak_allocated_bytes": memory.peak_allocated_bytes,
            "peak_reserved_bytes": memory.peak_reserved_bytes,
            "total_bytes": memory.total_bytes,
            "bound": memory.upper_bound or memory.lower_bound,
        }
    elif not request.count_only:
        row["error"] = next((notice.message for notice in report.warnings if notice.code == "not-traced"), None)
    selection = select_gpus(request)
    names = _name_cards(selection.gpus, selection.counts, selection.named)
    for name, verdict in zip(names, report.fit or (), strict=False):
        row[f"fits {name}"] = verdict.outcome.value
    return row


def _name_cards(gpus: Sequence[Any], counts: Sequence[int], named: bool) -> list[str]:
    """Return the cards of columns: those that were named, with how many."""
    if not named:
        return []
    return [gpu.name if count == 1 else f"{count}x {gpu.name}" for gpu, count in zip(gpus, counts, strict=True)]
