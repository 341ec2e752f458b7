"""`inspect plan`: candidate recipes to train a model on one card, or to generate with it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from inspector.cli.command_line import spell_command
from inspector.cli.console import render_document, show_progress
from inspector.cli.exit_codes import choose_code_if_any_fits
from inspector.cli.group import Work, subcommand
from inspector.cli.jobs import Job, build_job
from inspector.cli.option_groups.cards import OF_CARDS
from inspector.cli.option_names import name_options
from inspector.cli.options import FORMATS, list_parameters_without
from inspector.cli.output import open_output
from inspector.errors import UsageError
from inspector.hardware.card_counts import read_card_counts
from inspector.records.fit import VARIED_BY_A_PLAN
from inspector.records.recipe import Recipe
from inspector.runtime.patches import replace_item, restore_changes

if TYPE_CHECKING:
    from inspector.records.fit import Plan

__all__ = ["plan"]

# What this command writes beside what all do.
_OWN_FORMATS = ("csv", "html")
_OF_TARGETS = ("targets", "exclude_targets", "modules_to_save")
# Options of a report that a plan decides itself or has no use for.
_NOT_OF_A_PLAN = (
    *VARIED_BY_A_PLAN,
    *("autocast_adapter_dtype", "adapter_dtype", "workload", "fit", "advice", "count_only", "depth", "format_"),
    *("gpu_count", "fsdp", "deepspeed", "context"),
    *(option.name or "" for option in OF_CARDS),
)
# What options say here.
_HELP = {
    "gpus_": "The GPU that the plan is for (a100-80gb, 4090): exactly one, here or as --gpu-memory. `inspect gpus` "
    "lists all.",
    "gpu_memory": "The same for a GPU of this memory, as torch reports it, with a unit: 24GiB, 24GB or 24576MiB.",
}
# What can be searched for each candidate of a plan.
_SEARCHED = {
    "both": ("batch-size", "seq-len"),
    "batch-size": ("batch-size",),
    "seq-len": ("seq-len",),
    "prompt-len": ("prompt-len",),
    "none": (),
}


def _list_parameters() -> list[click.Parameter]:
    """Return the parameters of a report that a plan shares; of cards it takes one, however it is named."""
    shared = [copy.copy(parameter) for parameter in list_parameters_without(*_NOT_OF_A_PLAN)]
    for option in shared:
        if isinstance(option, click.Option) and option.name in _HELP:
            option.help = _HELP[option.name]
    return shared


@subcommand(_list_parameters())
@click.option(
    "--format", "format_", type=click.Choice((*FORMATS, "csv", "html")), help="How to print it; default: text."
)
@click.option(
    "--fit",
    type=click.Choice(tuple(_SEARCHED)),
    default="both",
    show_default=True,
    help="Of what to search the largest value that fits, for each candidate; none is quick. With --generate both are "
    "batch-size and prompt-len.",
)
@click.option(
    "--gpus",
    "gpu_counts",
    metavar="N|A-B",
    help="Plan for so many of the GPU, such as 8 or 1-64: what each takes under DDP and FSDP, and the least that fit.",
)
@click.option(
    "--sort",
    type=click.Choice(("recipe", "peak", "total", "headroom", "batch-size", "seq-len", "prompt-len")),
    default="recipe",
    show_default=True,
    help="Order of the candidates: as the recipes come, smallest peak or total first, or largest of the others first.",
)
def plan(format_: str | None, fit: str, sort: str, gpu_counts: str | None, **options: Any) -> Work:
    """List recipes to train MODEL on a GPU: what each takes, and the largest batch size and sequence length that fit.

    Recipes are full fine-tuning, an adapter (--lora or --peft, else LoRA with r=16 on all linear layers), and that
    adapter on weights in 4 bits (--quantization says in which form; none leaves them out), with the optimizers and
    switches that save memory: 24, where the model can have all of them. Each is traced, and each value that is
    searched, too. With --generate they are ways to run model.generate: the prompt in pieces, the cache in float8,
    weights in 4 bits.

    \b
    inspect plan Qwen/Qwen2.5-7B --gpu 4090
    inspect plan Qwen/Qwen2.5-7B --gpu a100-80gb --seq-len 4096 --sort batch-size --format csv
    inspect plan Qwen/Qwen3-8B --generate --batch-size 8 --prompt-len 32768 --gpu a100-80gb
    inspect plan Qwen/Qwen2.5-7B --gpu h100 --gpus 1-64

    Exit code 1: none of them fits.
    """  # noqa: D301  # as above
    if options["peft"] is None and options["lora"] is None and any(options[name] for name in _OF_TARGETS):
        options["lora"] = "r=16"  # what a plan takes where no adapter is named
    unused: dict[str, Any] = {name: getattr(Recipe(), name) for name in VARIED_BY_A_PLAN}
    unused |= {
        "autocast_adapter_dtype": True,
        "adapter_dtype": "auto",
        "workload": "training",
        "fit": None,
        "advice": False,
    }
    unused |= {"gpu_count": 1, "fsdp": False, "deepspeed": None, "context": ()}
    if fit == "prompt-len" and not options["generate"]:
        raise UsageError("--fit prompt-len is of a generation: add --generate, or search seq-len.")
    counts = None if gpu_counts is None else read_card_counts(gpu_counts)
    if counts is not None:
        _refuse_searches()
    job = build_job(format_=format_, formats=_OWN_FORMATS, depth=0, count_only=False, **unused, **options)
    typed = spell_command(click.get_current_context(), "inspect plan")
    return functools.partial(_plan, job, _SEARCHED[fit], sort, typed, counts)


def _refuse_searches() -> None:
    """Raise UsageError for a search of each candidate: of several cards their number is what is searched."""
    context = click.get_current_context()
    if context.get_parameter_source("fit") is ParameterSource.COMMANDLINE and context.params["fit"] != "none":
        raise UsageError("--fit searches on one card, and --gpus how many it takes: drop one of them.")


def _plan(
    job: Job, quantities: tuple[str, ...], order: str, typed: str, gpu_counts: tuple[int, int] | None = None
) -> int:
    """Trace the candidates, print or write them, and return the exit code; `typed` is the command itself."""
    from inspector.pipeline import plan as build_plan
    from inspector.render.plan import build_plan_document, render_plan_csv, render_plan_json

    with restore_changes(), show_progress(shown=job.progress, color=job.color) as progress:
        # Candidates are traced in forked processes, which an initialised driver does not survive. No GPU is used.
        replace_item(os.environ, "CUDA_VISIBLE_DEVICES", "")
        result = build_plan(job.request, quantities, gpu_counts, progress, keeps=job.keeps)
        result = _name_options_in_plan(result)
    with open_output(job.output, quiet=not job.progress) as stream:
        if job.format == "json":
            render_plan_json(result, order, stream)
        elif job.format == "csv":
            render_plan_csv(result, order, stream)
        elif job.format == "html":
            from inspector.render.page.plan import write_plan_page

            write_plan_page(result, order, stream, command=typed)
        else:
            render_document(build_plan_document(result, order), job.format, stream, color=job.color)
    return choose_code_if_any_fits(row.outcome for row in result.rows)


def _name_options_in_plan(plan: Plan) -> Plan:
    """Return a plan whose sentences name options."""
    rows = [
        row if row.refused is None else dataclasses.replace(row, refused=name_options(row.refused)) for row in plan.rows
    ]
    return dataclasses.replace(plan, rows=tuple(rows), warnings=tuple(map(name_options, plan.warnings)))
