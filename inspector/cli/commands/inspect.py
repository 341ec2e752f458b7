"""`inspect MODEL`: the report of one model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TextIO

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from inspector.checks import find_nearest_names
from inspector.cli.console import print_error, render_document, show_progress
from inspector.cli.exit_codes import ExitCode, choose_code_if_all_fit
from inspector.cli.group import CONTEXT_SETTINGS, SUBCOMMANDS, WithSubcommands, Work
from inspector.cli.jobs import Job, build_job
from inspector.cli.option_names import name_options_in_notices
from inspector.cli.options import PARAMETERS
from inspector.cli.output import open_output
from inspector.errors import UsageError, quoted
from inspector.records.fit import Fit
from inspector.render.sections import SECTIONS

if TYPE_CHECKING:
    from inspector.records.report import Report

__all__ = ["command"]


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
    index = next(index for index, parameter in enumerate(PARAMETERS) if parameter.name == "as_json")
    return [*PARAMETERS[:index], *shown, *PARAMETERS[index:]]


@click.command(
    name="inspect",
    cls=WithSubcommands,
    params=_list_parameters(),
    context_settings=CONTEXT_SETTINGS,
    epilog="Shell completion: _INSPECT_COMPLETE=bash_source inspect (or zsh_source, fish_source) prints the script.",
)
def command(model: str, details: bool, show: tuple[str, ...], **options: Any) -> Work:
    """Say exactly how many parameters MODEL has, how many an adapter trains, and what they cost in bytes.

    MODEL is a Hub id (Qwen/QwQ-32B), a local directory, a path to a config.json, or an adapter (Hub id or directory
    holding adapter_config.json). No weights are downloaded and no GPU is needed.

    \b
    inspect Qwen/QwQ-32B --lora r=16 --targets all-linear
    inspect meta-llama/Llama-3.2-3B --peft '{"peft_type": "LN_TUNING"}' --json
    inspect Qwen/Qwen2.5-7B --lora r=8 --gpu 4090 && accelerate launch train.py

    Other commands: `inspect models` lists the models that are known without network, `inspect gpus` the GPUs that
    --gpu knows, `inspect plan MODEL --gpu NAME` lists recipes to train on one, `inspect compare MODEL --with OPTIONS`
    sets recipes side by side, `inspect measure MODEL` runs the step on the GPU at hand and prints predicted beside
    measured. A directory of such a name is given as ./gpus.
    """  # noqa: D301  # click wants the backspace itself: it keeps the lines of the examples
    if model in SUBCOMMANDS:
        raise UsageError(f"{model} is a command of its own: write inspect {model} first, or ./{model} for a directory.")
    job = build_job(model=model, **options)
    if job.format == "json" and (details or show):
        raise UsageError(f"JSON has all sections: drop {'--details' if details else '--show'}.")
    depth = click.get_current_context().get_parameter_source("depth")
    if depth is ParameterSource.COMMANDLINE:
        show = (*show, "tree")
    return functools.partial(_inspect, job, SECTIONS if details else show)


def _inspect(job: Job, shown: Collection[str]) -> int:
    """Inspect, print or write the report, and return the exit code."""
    from inspector.pipeline import run

    with show_progress(shown=job.progress, color=job.color) as progress:
        report = run(job.request, progress)
    with open_output(job.output) as stream:
        _render(report, job.format, stream, shown=shown, color=job.color)
    named = bool(job.request.gpus or job.request.gpu_memory)
    if not named:
        return ExitCode.DONE
    for verdict in report.fit or ():
        if verdict.outcome is Fit.UNKNOWN:
            print_error(f"nothing says whether the step fits the {verdict.gpu}: {verdict.reason}")
    return choose_code_if_all_fit(verdict.outcome for verdict in report.fit or ())


def _render(report: Report, format_: str, stream: TextIO, *, shown: Collection[str], color: bool) -> None:
    """Write the report in the format asked for; its warnings name options."""
    report = dataclasses.replace(report, warnings=name_options_in_notices(report.warnings))
    if format_ == "json":
        from inspector.render.writers.json import render_json

        render_json(report, stream)
    else:
        from inspector.render.sections.report import build_report_document

        render_document(build_report_document(report, shown), format_, stream, color=color)
