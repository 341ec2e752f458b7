"""`inspect compare`: recipes, models or reports side by side."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import click

from inspector.cli.command_line import spell_command
from inspector.cli.compared_requests import Recipes, read_recipes
from inspector.cli.console import render_document, show_progress
from inspector.cli.exit_codes import ExitCode, choose_code_if_any_fits
from inspector.cli.group import Work, subcommand
from inspector.cli.jobs import Job
from inspector.cli.option_groups.engines import OF_ENGINES
from inspector.cli.option_names import name_options
from inspector.cli.options import FORMATS, complete_model, list_parameters_without
from inspector.cli.output import open_output

__all__ = ["compare"]

# What this command writes beside what all do.
_OWN_FORMATS = ("csv", "html")
# Options of a report that a comparison has no use for, or has in another form.
_NOT_OF_A_COMPARISON = ("model", "fit", "advice", "depth", "format_", "context")


@subcommand([*list_parameters_without(*_NOT_OF_A_COMPARISON), *OF_ENGINES])
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", shell_complete=complete_model)
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="OPTIONS",
    help="One more recipe of MODEL: the options that it has beside, or instead of, those of the command; repeatable.",
)
@click.option(
    "--format", "format_", type=click.Choice((*FORMATS, "csv", "html")), help="How to print it; default: text."
)
def compare(models: tuple[str, ...], others: tuple[str, ...], format_: str | None, **options: Any) -> Work:
    """Set two or more recipes side by side, where they differ: settings, parameters, bytes, verdicts.

    Either one MODEL and, with each --with, options that change something of it; or several MODELs under the same
    options. A MODEL may also be a report that `inspect MODEL --json --output FILE` wrote before.

    \b
    inspect compare Qwen/Qwen2.5-7B --lora r=16 --with "--gradient-checkpointing" --with "--quantization nf4"
    inspect compare Qwen/Qwen2.5-7B Qwen/Qwen3-8B --lora r=16 --targets all-linear --gpu 4090
    inspect compare before.json after.json
    inspect compare Qwen/Qwen3-8B --generate --prompt-len 32k --gpu a100-80gb --with "--engine vllm --max-model-len 32K"

    Exit code 1: none of the recipes fits a GPU that was named.
    """  # noqa: D301  # as above
    recipes, job = read_recipes(models, others, {**options, "format_": format_, "formats": _OWN_FORMATS})
    return functools.partial(_compare, recipes, job, spell_command(click.get_current_context(), "inspect compare"))


def _compare(recipes: Recipes, job: Job, typed: str) -> int:
    """Inspect the recipes, print or write what differs, and return the exit code; `typed` is the command itself."""
    from inspector.pipeline import compare as compare_recipes
    from inspector.render.comparison import build_comparison_document, render_comparison_csv, render_comparison_json

    with show_progress(shown=job.progress, color=job.color) as progress:
        comparison, outcomes = compare_recipes(recipes, progress, keeps=job.keeps)
    warnings = [dataclasses.replace(warning, message=name_options(warning.message)) for warning in comparison.warnings]
    comparison = dataclasses.replace(comparison, warnings=warnings)
    with open_output(job.output, quiet=not job.progress) as stream:
        if job.format == "json":
            render_comparison_json(comparison, stream)
        elif job.format == "csv":
            render_comparison_csv(comparison, stream)
        elif job.format == "html":
            from inspector.render.page.comparison import write_comparison_page

            write_comparison_page(comparison, stream, command=typed)
        else:
            render_document(build_comparison_document(comparison), job.format, stream, color=job.color)
    return choose_code_if_any_fits(outcomes) if outcomes else ExitCode.DONE
