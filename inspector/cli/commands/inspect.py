"""`inspect MODEL`: the report of one model."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from inspector.checks import find_nearest_names
from inspector.cli.command_line import spell_command
from inspector.cli.completion import complete_file
from inspector.cli.console import print_error, render_document, show_progress
from inspector.cli.exit_codes import ExitCode, choose_code_if_all_fit
from inspector.cli.group import CONTEXT_SETTINGS, SUBCOMMANDS, WithSubcommands, Work
from inspector.cli.jobs import Job, build_job
from inspector.cli.option_groups.engines import OF_ENGINES, read_serving
from inspector.cli.option_names import name_options, name_options_in_notices
from inspector.cli.options import FORMATS, PARAMETERS
from inspector.cli.output import open_output
from inspector.errors import UnsupportedModelError, UsageError, quoted
from inspector.records.fit import Fit, Purpose
from inspector.render.sections import SECTIONS
from inspector.render.sections.source import format_fields

if TYPE_CHECKING:
    from inspector.memory.recording import Recording
    from inspector.records.report import Report
    from inspector.render.document import Section

__all__ = ["command"]

# What this command writes beside what all do.
_OWN_FORMATS = ("html", "memory-viz")
# Why a format does not take --details and --show.
_SECTIONS_OF_FORMAT = {
    "json": "JSON has all sections",
    "html": "A page has all sections",
    "memory-viz": "A snapshot has no sections",
}
# A page folds its tree; --depth goes no deeper.
_WHOLE_TREE = 64


def _parse_sections(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the sections in comma lists; refuse one that there is not."""
    names = [name.strip().lower() for value in values for name in value.split(",")]
    for name in names:
        if name not in SECTIONS:
            near = find_nearest_names(name, SECTIONS)
            meant = f"did you mean {near[0]}?" if near else f"use some of {', '.join(SECTIONS)}"
            raise click.BadParameter(f"there is no section {quoted(name, 60)}; {meant}")
    return tuple(dict.fromkeys(names))


def _complete_sections(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the sections that continue a comma list."""
    before, comma, last = incomplete.rpartition(",")
    return [CompletionItem(f"{before}{comma}{name}") for name in SECTIONS if name.startswith(last)]


def _list_parameters() -> list[click.Parameter]:
    """Return the parameters of the command: those of all reports and, before its formats, how much is shown."""
    shown = [
        click.Option(["--details"], is_flag=True, help="Print all sections below the first screen."),
        click.Option(
            ["--show"],
            multiple=True,
            metavar="NAMES",
            callback=_parse_sections,
            shell_complete=_complete_sections,
            help=f"Print these sections below the first screen, a comma list of {', '.join(SECTIONS)}.",
        ),
    ]
    plot = click.Option(
        ["--plot"], is_flag=True, help="Plot memory over time below the first screen: 20 lines as wide as the terminal."
    )
    index = next(index for index, parameter in enumerate(PARAMETERS) if parameter.name == "as_json")
    written = click.Option(
        ["--write-changes"],
        shell_complete=complete_file,
        metavar="FILE",
        help="Write a copy of the training file with the first change that makes the step fit, or what --fit found.",
    )
    formats = click.Option(
        ["--format", "format_"],
        type=click.Choice((*FORMATS, *_OWN_FORMATS)),
        help="Format of the report; html is a page with charts, memory-viz a snapshot for pytorch.org/memory_viz. "
        "Default: by the suffix of --output (.json, .md, .html, .pickle), else text.",
    )
    rest = [formats if parameter.name == "format_" else parameter for parameter in PARAMETERS[index:]]
    return [*PARAMETERS[:index], *OF_ENGINES, *shown, plot, written, *rest]


@click.command(
    name="inspect",
    cls=WithSubcommands,
    params=_list_parameters(),
    context_settings=CONTEXT_SETTINGS,
    epilog="Shell completion: _INSPECT_COMPLETE=bash_source inspect (or zsh_source, fish_source) prints the script.",
)
def command(
    model: str, details: bool, show: tuple[str, ...], plot: bool, write_changes: str | None, **options: Any
) -> Work:
    """Say exactly how many parameters MODEL has, how many an adapter trains, and what they cost in bytes.

    MODEL is a Hub id (Qwen/QwQ-32B), a local directory, a path to a config.json, an adapter (Hub id or directory
    holding adapter_config.json), or a training file of axolotl, LLaMA-Factory, TRL, transformers or Unsloth
    (train.yaml, .json, .toml, .ipynb, .py), which is read and not run. No weights are downloaded and no GPU is needed.

    \b
    inspect Qwen/QwQ-32B --lora r=16 --targets all-linear
    inspect meta-llama/Llama-3.2-3B --peft '{"peft_type": "LN_TUNING"}' --json
    inspect train.yaml --gpu 4090
    inspect Qwen/Qwen2.5-7B --lora r=8 --gpu 4090 && accelerate launch train.py
    inspect Qwen/Qwen3-8B --engine vllm --gpu a100-80gb --max-model-len 32K --max-num-seqs 8
    """  # noqa: D301  # click wants the backspace itself: it keeps the lines of the examples
    if model in SUBCOMMANDS:
        raise UsageError(f"{model} is a command of its own: write inspect {model} first, or ./{model} for a directory.")
    serving = read_serving(options)
    job = build_job(model=model, formats=_OWN_FORMATS, serving=serving, **options)
    if job.format in _SECTIONS_OF_FORMAT and (details or show):
        raise UsageError(f"{_SECTIONS_OF_FORMAT[job.format]}: drop {'--details' if details else '--show'}.")
    if plot:
        _check_plot(job)
    context = click.get_current_context()
    if context.get_parameter_source("depth") is ParameterSource.COMMANDLINE:
        show = (*show, "tree")
    elif job.format == "html":
        job = dataclasses.replace(job, request=dataclasses.replace(job.request, depth=_WHOLE_TREE))
    show = (*show, "context") if job.request.context else show
    copy = None if write_changes is None else _check_copy(write_changes, job)
    return functools.partial(
        _inspect, job, SECTIONS if details else show, copy, spell_command(context), is_plotted=plot
    )


def _check_plot(job: Job) -> None:
    """Raise UsageError where there is nothing to plot, or no text to plot it in."""
    if job.format not in ("text", "markdown"):
        have = "a page has the timeline" if job.format == "html" else f"{job.format} has no picture"
        raise UsageError(f"--plot draws in text, and {have}: drop --plot, or give --format text.")
    untraced = "--count-only" if job.request.count_only else "--engine" if job.request.serving is not None else None
    if untraced is not None:
        raise UsageError(f"--plot draws a traced run, and {untraced} traces none: drop one of them.")


def _check_copy(target: str, job: Job) -> Path:
    """Return where a changed copy of the training file goes, or raise UsageError where there is nothing to copy."""
    from inspector.training_files.changes import check_copy

    source = job.request.source
    if source is None or source.file is None:
        raise UsageError("--write-changes copies a training file: name one as MODEL, or drop it.")
    return check_copy(target, source.file.path)


def _inspect(job: Job, shown: Collection[str], copy: Path | None, typed: str, *, is_plotted: bool) -> int:
    """Inspect, print or write the report, and return the exit code; `typed` is the command itself."""
    from inspector.pipeline import record

    with show_progress(shown=job.progress, color=job.color) as progress:
        draws = is_plotted or job.format in ("html", "memory-viz")
        report, recording = record(job.request, progress, keeps=job.keeps, draws=draws)
        page = ""
        if job.format == "html":
            progress("drawing the run")
            page = _make_page(report, recording, typed)
    if job.format == "memory-viz":
        _write_snapshot(report, recording, job.output)
    elif job.format == "html":
        with open_output(job.output, quiet=not job.progress) as stream:
            stream.write(page)
    else:
        with open_output(job.output, quiet=not job.progress) as stream:
            plot = _build_plot_section(report, recording) if is_plotted else None
            _render(report, job.format, stream, shown=shown, color=job.color, plot=plot)
    if copy is not None:
        _write_changes(report, copy)
    named = bool(job.request.gpus or job.request.gpu_memory)
    if not named:
        return ExitCode.DONE
    verdicts = report.fit or () if report.serving is None else report.serving.verdicts
    subject = "the step fits" if report.serving is None else f"{report.serving.engine} serves it on"
    for verdict in verdicts:
        if verdict.outcome is Fit.UNKNOWN:
            print_error(f"nothing says whether {subject} the {verdict.gpu}: {verdict.reason}")
    return choose_code_if_all_fit(verdict.outcome for verdict in verdicts)


def _make_page(report: Report, recording: Recording | None, typed: str) -> str:
    """Return the report as a page; its warnings name options."""
    from inspector.render.page.report import write_report_page

    page = io.StringIO()
    report = dataclasses.replace(report, warnings=name_options_in_notices(report.warnings))
    write_report_page(report, recording, page, command=typed)
    return page.getvalue()


def _write_snapshot(report: Report, recording: Recording | None, output: Path | None) -> None:
    """Write the run as a snapshot, or raise UnsupportedModelError where none was traced."""
    from inspector.render.writers.memory_viz import write_snapshot

    if recording is None:
        why = next((notice.message for notice in report.warnings if notice.code == "not-traced"), "Nothing was traced.")
        raise UnsupportedModelError(f"{why} Without a traced run there is no snapshot; use --format text.")
    with open_output(output) as stream:
        write_snapshot(recording, stream.buffer)


def _write_changes(report: Report, copy: Path) -> None:
    """Write the training file with what was searched, or with the first change that makes the step fit."""
    from inspector.training_files.changes import make_changed_copy

    found = [report.search.in_file] if report.search is not None else []
    advice = [item for verdict in report.fit or () for item in verdict.advice or () if item.purpose is Purpose.FIT]
    changes = next((item for item in (*found, *(each.in_file for each in advice)) if item), None)
    assert report.source is not None
    assert report.source.file is not None
    if changes is None:
        print_error("there is no change to write: --write-changes takes what makes a step fit, or what --fit found")
        return
    with open_output(copy) as stream:
        stream.write(make_changed_copy(report.source.file, changes))
    print_error(f"wrote {copy} with {format_fields(changes)}")


def _build_plot_section(report: Report, recording: Recording | None) -> Section:
    """Return the plot of the run, or why there is none."""
    from inspector.render.document import Section, paragraph
    from inspector.render.timeline import build_plot

    if recording is not None:
        return Section(title="", blocks=(build_plot(report, recording),))
    why = next((notice.message for notice in report.warnings if notice.code == "not-traced"), "Nothing was traced.")
    return Section(title="", blocks=(paragraph(f"There is no timeline. {why}"),))


def _render(
    report: Report, format_: str, stream: TextIO, *, shown: Collection[str], color: bool, plot: Section | None
) -> None:
    """Write the report in the format asked for, the plot below the first screen; its warnings name options."""
    report = dataclasses.replace(report, warnings=name_options_in_notices(report.warnings))
    if report.context:
        points = [
            dataclasses.replace(point, reason=name_options(point.reason or "") or None) for point in report.context
        ]
        report = dataclasses.replace(report, context=points)
    if format_ == "json":
        from inspector.render.writers.json import render_json

        render_json(report, stream)
    else:
        from inspector.render.sections.report import build_report_document

        document = build_report_document(report, shown)
        if plot is not None:
            first = [section for section in document.sections if not section.title]
            others = [section for section in document.sections if section.title]
            document = dataclasses.replace(document, sections=(*first, plot, *others))
        render_document(document, format_, stream, color=color)
