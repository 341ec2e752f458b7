"""The commands beside `inspect MODEL`: what each takes, and the work that it then does.

A command only reads its arguments and returns its work, which `cli.main` does.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import click

from inspector.arguments import FORMATS, Job, complete_file, complete_model, format_of, job_of, parameters_without
from inspector.compared_recipes import Recipes, read_recipes
from inspector.errors import UsageError
from inspector.optimizer_names import DEFAULT as DEFAULT_OPTIMIZER
from inspector.output import opened, writable
from inspector.printing import progress_shown, render_document
from inspector.subcommands import SUBCOMMANDS, Work, subcommand

__all__ = ["SUBCOMMANDS", "compare", "gpus", "measure", "plan"]

_DOES_NOT_FIT = 1
# Options of a report that a plan decides itself or has no use for.
_NOT_OF_A_PLAN = (
    *("optimizer", "optim_args", "gradient_checkpointing", "use_reentrant", "autocast_adapter_dtype"),
    *("fit", "advice", "count_only", "depth", "format_"),
)
# What the rows of a plan can be searched for.
_SEARCHED = {"both": ("batch-size", "seq-len"), "batch-size": ("batch-size",), "seq-len": ("seq-len",), "none": ()}
# Options of a report that a comparison has no use for, or has in another form.
_NOT_OF_A_COMPARISON = ("model", "fit", "advice", "depth", "format_")
# Options of a report that a run on the GPU at hand has no use for.
_NOT_OF_A_RUN = ("gpus_", "gpu_memory", "fit", "advice", "count_only", "depth")


@subcommand()
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="How to print the list; default: text.")
@click.option("--output", shell_complete=complete_file, metavar="FILE", help="Write the list there.")
@click.option("--no-color", is_flag=True, help="No colour; NO_COLOR does the same.")
def gpus(as_json: bool, format_: str | None, output: str | None, no_color: bool) -> Work:
    """List the GPUs that --gpu knows: their memory, and what decides which kernels run on them.

    The names of the list are matched in any case, with and without blanks and hyphens: a100-80gb, rtx4090, 4090.
    """
    return functools.partial(_list_gpus, format_of(as_json, format_), writable(output), color=not no_color)


@subcommand(parameters_without(*_NOT_OF_A_PLAN))
@click.option("--format", "format_", type=click.Choice((*FORMATS, "csv")), help="How to print it; default: text.")
@click.option(
    "--fit",
    type=click.Choice(tuple(_SEARCHED)),
    default="both",
    show_default=True,
    help="Of what to search the largest value that fits, in each row; none is quick.",
)
@click.option(
    "--sort",
    type=click.Choice(("recipe", "peak", "total", "headroom", "batch-size", "seq-len")),
    default="recipe",
    show_default=True,
    help="Order of the rows: as the recipes come, the smallest peak or total first, or the most of the others.",
)
def plan(format_: str | None, fit: str, sort: str, **options: Any) -> Work:
    """Say in which ways MODEL can be trained on a GPU, what each takes, and the largest batch and row that fit.

    Ways are full fine-tuning, an adapter (--lora or --peft, else LoRA with r=16 on all linear layers), and that adapter
    on weights in 4 bits (--quantization says in which form; none leaves them out), with the optimizers and switches
    that save memory: 24, where the model can have all of them. Each is traced, and each value that is searched, too.

    \b
    inspect plan Qwen/Qwen2.5-7B --gpu 4090
    inspect plan Qwen/Qwen2.5-7B --gpu a100-80gb --seq-len 4096 --sort batch-size --format csv

    Exit code 1: none of them fits.
    """  # noqa: D301  # as above
    csv = format_ == "csv"
    if csv and options["as_json"]:
        raise UsageError("--json contradicts --format csv: drop one of them.")
    shared: dict[str, Any] = {"format_": None if csv else format_, "optimizer": DEFAULT_OPTIMIZER, "optim_args": None}
    shared |= {"gradient_checkpointing": False, "use_reentrant": False, "autocast_adapter_dtype": True}
    job = job_of(depth=0, fit=None, advice=False, count_only=False, **shared, **options)
    return functools.partial(_plan, dataclasses.replace(job, format="csv") if csv else job, _SEARCHED[fit], sort)


@subcommand(parameters_without(*_NOT_OF_A_COMPARISON))
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", shell_complete=complete_model)
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="OPTIONS",
    help="One more recipe of MODEL: the options that it has beside, or instead of, those of the command; repeatable.",
)
@click.option("--format", "format_", type=click.Choice((*FORMATS, "csv")), help="How to print it; default: text.")
def compare(models: tuple[str, ...], others: tuple[str, ...], format_: str | None, **options: Any) -> Work:
    """Set two or more recipes side by side, where they differ: settings, parameters, bytes, verdicts.

    Either one MODEL and, with each --with, options that change something of it; or several MODELs under the same
    options. A MODEL may also be a report that `inspect MODEL --json --output FILE` wrote before.

    \b
    inspect compare Qwen/Qwen2.5-7B --lora r=16 --with "--gradient-checkpointing" --with "--quantization nf4"
    inspect compare Qwen/Qwen2.5-7B Qwen/Qwen3-8B --lora r=16 --targets all-linear --gpu 4090
    inspect compare before.json after.json

    Exit code 1: none of the recipes fits a GPU that was named.
    """  # noqa: D301  # as above
    csv = format_ == "csv"
    if csv and options["as_json"]:
        raise UsageError("--json contradicts --format csv: drop one of them.")
    recipes, job = read_recipes(models, others, {**options, "format_": None if csv else format_})
    return functools.partial(_compare, recipes, dataclasses.replace(job, format="csv") if csv else job)


@subcommand(parameters_without(*_NOT_OF_A_RUN))
def measure(**options: Any) -> Work:
    """Run the step of MODEL for real on the CUDA GPU at hand, and print predicted beside measured.

    The weights are random and made on the GPU, the batch and the step are those that `inspect MODEL` traces, and the
    options are its options. It refuses before anything is allocated where the prediction says that the step will not
    fit, and leaves nothing on the GPU. --json writes the record that tests/truth keeps.

    \b
    inspect measure Qwen/Qwen2.5-0.5B --lora r=16 --targets all-linear
    inspect measure Qwen/Qwen2.5-7B --lora r=16 --gradient-checkpointing --json --output row.json

    Exit code 1: it does not fit what the GPU has free. A difference is no failure: the exit code is 0.
    """  # noqa: D301  # as above
    unused: dict[str, Any] = {"gpus_": (), "gpu_memory": (), "fit": None, "advice": False, "count_only": False}
    return functools.partial(_measure, job_of(**unused, depth=0, **options))


def _list_gpus(format_: str, output: Path | None, *, color: bool) -> int:
    """Print or write the catalogue of GPUs, and return the exit code."""
    from inspector.fit.catalogue import catalogue
    from inspector.render.gpus import render_gpus_json, shown_gpus

    with opened(output) as stream:
        if format_ == "json":
            render_gpus_json(catalogue(), stream)
        else:
            render_document(shown_gpus(catalogue()), format_, stream, color=color)
    return 0


def _plan(job: Job, quantities: tuple[str, ...], order: str) -> int:
    """Trace the ways to train, print or write them, and return the exit code."""
    # The ways are traced in forked processes, which a driver that was woken up does not survive. No GPU is used here.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from inspector.pipeline import plan as planned
    from inspector.render.plan import render_plan_csv, render_plan_json, shown_plan

    with progress_shown(shown=job.progress, color=job.color) as progress:
        made = planned(job.request, quantities, progress)
    with opened(job.output) as stream:
        if job.format == "json":
            render_plan_json(made, order, stream)
        elif job.format == "csv":
            render_plan_csv(made, order, stream)
        else:
            render_document(shown_plan(made, order), job.format, stream, color=job.color)
    return 0 if any(row.fits for row in made.rows) else _DOES_NOT_FIT


def _compare(recipes: Recipes, job: Job) -> int:
    """Inspect the recipes, print or write what differs, and return the exit code."""
    from inspector.pipeline import compare as made_of
    from inspector.render.comparison import render_comparison_csv, render_comparison_json, shown_comparison

    with progress_shown(shown=job.progress, color=job.color) as progress:
        comparison, fits = made_of(recipes, progress)
    with opened(job.output) as stream:
        if job.format == "json":
            render_comparison_json(comparison, stream)
        elif job.format == "csv":
            render_comparison_csv(comparison, stream)
        else:
            render_document(shown_comparison(comparison), job.format, stream, color=job.color)
    return 0 if fits else _DOES_NOT_FIT


def _measure(job: Job) -> int:
    """Measure, print or write predicted beside measured, and return the exit code."""
    from inspector.pipeline import measure as measured
    from inspector.render.measurement import render_measurement_json, shown_measurement

    with progress_shown(shown=job.progress, color=job.color) as progress:
        measurement = measured(job.request, progress)
    with opened(job.output) as stream:
        if job.format == "json":
            render_measurement_json(measurement, stream)
        else:
            render_document(shown_measurement(measurement), job.format, stream, color=job.color)
    return 0
