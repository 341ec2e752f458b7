"""`inspect MODEL`: the report of one model."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, TextIO

import click

from inspector.cli.console import render_document, show_progress
from inspector.cli.exit_codes import ExitCode, choose_code_if_all_fit
from inspector.cli.group import CONTEXT_SETTINGS, SUBCOMMANDS, WithSubcommands, Work
from inspector.cli.option_names import name_options_in_notices
from inspector.cli.options import PARAMETERS, Job, build_job
from inspector.cli.output import open_output
from inspector.errors import UsageError

if TYPE_CHECKING:
    from inspector.records.report import Report

__all__ = ["command"]


@click.command(
    name="inspect",
    cls=WithSubcommands,
    params=list(PARAMETERS),
    context_settings=CONTEXT_SETTINGS,
    epilog="Shell completion: _INSPECT_COMPLETE=bash_source inspect (or zsh_source, fish_source) prints the script.",
)
def command(model: str, **options: Any) -> Work:
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
    return functools.partial(_inspect, build_job(model=model, **options))


def _inspect(job: Job) -> int:
    """Inspect, print or write the report, and return the exit code."""
    from inspector.pipeline import run

    with show_progress(shown=job.progress, color=job.color) as progress:
        report = run(job.request, progress)
    with open_output(job.output) as stream:
        _render(report, job.format, stream, color=job.color)
    named = bool(job.request.gpus or job.request.gpu_memory)
    return choose_code_if_all_fit(verdict.fits for verdict in report.fit or ()) if named else ExitCode.DONE


def _render(report: Report, format_: str, stream: TextIO, *, color: bool) -> None:
    """Write the report in the format asked for; its warnings name options."""
    report = dataclasses.replace(report, warnings=name_options_in_notices(report.warnings))
    if format_ == "json":
        from inspector.render.writers.json import render_json

        render_json(report, stream)
    else:
        from inspector.render.sections.report import build_report_document

        render_document(build_report_document(report), format_, stream, color=color)
