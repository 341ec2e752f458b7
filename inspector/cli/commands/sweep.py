"""`inspect sweep`: one recipe on a list of models."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from inspector.cli.command_line import spell_options
from inspector.cli.console import show_progress
from inspector.cli.exit_codes import ExitCode
from inspector.cli.group import Work, subcommand
from inspector.cli.jobs import Job, build_job
from inspector.cli.option_names import name_options
from inspector.cli.options import complete_file, list_parameters_without
from inspector.cli.output import open_output
from inspector.errors import UsageError, one_line, quoted

__all__ = ["sweep"]

# Options of a report that a row has no place for, or that name one model.
_NOT_OF_A_SWEEP = (
    *("model", "revision", "fit", "advice", "depth", "context", "as_json", "format_"),
    *("framework", "base_model", "launch", "strict"),
)
_JSON_LINES = (".jsonl", ".ndjson")
_UNUSED: dict[str, Any] = {
    "revision": None,
    "fit": None,
    "advice": False,
    "depth": 0,
    "context": (),
    "as_json": False,
    "framework": None,
    "base_model": None,
    "launch": (),
    "strict": False,
}


@subcommand(list_parameters_without(*_NOT_OF_A_SWEEP))
@click.argument("file", metavar="FILE", shell_complete=complete_file)
@click.option(
    "--format",
    "format_",
    type=click.Choice(("csv", "jsonl")),
    help="How to write rows; default: what --output ends in (.csv, .jsonl), else csv.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    metavar="N",
    help="How many models at a time, each in a process of some 0.5 GB; default: one a core.",
)
def sweep(file: str, format_: str | None, jobs: int | None, **options: Any) -> Work:
    """Inspect the models of FILE under the same options, and write a line for each.

    FILE names one model a line: a Hub id, a folder or a path to a config.json; - is standard input, and # begins a
    comment. Rows come in the order in which they are done. A model that cannot be inspected has a row that says why.
    With --output a sweep goes on where it was interrupted: models that have a row with the same options are left out.

    \b
    inspect sweep models.txt --lora r=16 --targets all-linear --gpu 4090 --output sizes.csv
    inspect models --format csv | tail -n +2 | cut -d, -f1 | inspect sweep - --count-only --offline
    """  # noqa: D301  # as above
    job = build_job(model="-", format_="text", **_UNUSED, **options)
    if format_ is None:
        format_ = "jsonl" if job.output is not None and job.output.suffix.lower() in _JSON_LINES else "csv"
    said = spell_options(click.get_current_context(), "format_", "jobs", "output")
    return functools.partial(_sweep, job, file, format_, jobs, said)


def _sweep(job: Job, file: str, format_: str, jobs: int | None, options: str) -> int:
    """Write a row for each model that has none, and return the exit code."""
    from inspector.runtime.workers import count_cores
    from inspector.sweep import list_columns, read_models
    from inspector.sweep import sweep as inspect_models

    columns = list_columns(job.request)
    with _open_list(file) as lines, _open_rows(job.output, format_, columns) as (stream, done):
        models = (model for model in read_models(lines) if (model, options) not in done)
        rows = inspect_models(
            job.request,
            models,
            options=options,
            jobs=jobs or count_cores(),
            keeps=job.keeps,
            name_settings=name_options,
        )
        with show_progress(shown=job.progress and job.output is not None, color=job.color) as progress:
            progress("loading transformers and PEFT")
            for count, row in enumerate(rows, 1):
                _write_row(row, format_, columns, stream)
                stream.flush()
                progress(f"inspecting models, {count:,} done")
    return ExitCode.DONE


@contextlib.contextmanager
def _open_list(file: str) -> Iterator[TextIO]:
    """Open the list of models."""
    if file == "-":
        yield sys.stdin
        return
    try:
        lines = Path(file).expanduser().open(encoding="utf-8", errors="replace")
    except (OSError, ValueError, RuntimeError) as error:
        reason = one_line(error, 100)
        raise UsageError(f"FILE {quoted(file)} cannot be read ({reason}): name a list of models.") from error
    with lines:
        yield lines


@contextlib.contextmanager
def _open_rows(
    output: Path | None, format_: str, columns: Sequence[str]
) -> Iterator[tuple[TextIO, frozenset[tuple[str, str]]]]:
    """Open what rows are added to; second are the models, with options, that have one there."""
    if output is None:
        with open_output(None) as stream:
            _write_head(format_, columns, stream)
            yield stream, frozenset()
        return
    try:
        done = _read_rows(output, format_, columns) if output.exists() else None
        stream = output.open("a", encoding="utf-8", errors="backslashreplace", newline="")
    except (OSError, ValueError) as error:
        reason = one_line(error, 100)
        raise UsageError(f"--output {quoted(output)} cannot be written ({reason}): name another.") from error
    with stream:
        if done is None:
            _write_head(format_, columns, stream)
        yield stream, done or frozenset()


def _read_rows(output: Path, format_: str, columns: Sequence[str]) -> frozenset[tuple[str, str]] | None:
    """Return the models, with options, that have a row in a file; None where it is empty.

    What an interrupt left of a last row is cut off. Raises UsageError for a file of something else.
    """
    with output.open("r+b") as file:
        end = 0
        for line in file:
            end += len(line) if line.endswith(b"\n") else 0
        file.truncate(end)  # an interrupt came within a row
    if not end:
        return None
    with output.open(encoding="utf-8", newline="") as stream:
        try:
            if format_ == "csv":
                import csv

                head, *rows = csv.reader(stream)
                if head != list(columns):
                    raise ValueError("its columns are others")
                return frozenset((row[0].removeprefix("'"), row[1].removeprefix("'")) for row in rows)
            return frozenset((row["model"], row["options"]) for row in map(json.loads, stream))
        except (ValueError, LookupError, TypeError) as error:
            reason = one_line(error, 100)
            raise UsageError(f"--output {quoted(output)} holds no such rows ({reason}): name another file.") from error


def _write_head(format_: str, columns: Sequence[str], stream: TextIO) -> None:
    """Write the names of columns, which rows of JSON have themselves."""
    if format_ == "csv":
        _write_cells(columns, stream)


def _write_row(row: Mapping[str, Any], format_: str, columns: Sequence[str], stream: TextIO) -> None:
    """Write a row; JSON has what there is."""
    if format_ == "csv":
        _write_cells([row.get(column) for column in columns], stream)
        return
    json.dump({name: row[name] for name in columns if row.get(name) is not None}, stream)
    stream.write("\n")


def _write_cells(cells: Sequence[Any], stream: TextIO) -> None:
    """Write a line of CSV."""
    from inspector.render.writers.spreadsheet import write_csv

    write_csv([cells], stream)
