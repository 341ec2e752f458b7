"""`inspect gpus`: the catalogue of GPUs."""

from __future__ import annotations

import functools
from pathlib import Path

import click

from inspector.cli.console import render_document
from inspector.cli.exit_codes import ExitCode
from inspector.cli.group import Work, subcommand
from inspector.cli.jobs import choose_format
from inspector.cli.options import FORMATS, complete_file
from inspector.cli.output import check_output, open_output

__all__ = ["gpus"]


@subcommand()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="How to print the list; default: text.")
@click.option("--output", shell_complete=complete_file, metavar="FILE", help="Write the list there.")
@click.option("--no-color", is_flag=True, help="No colour; NO_COLOR does the same.")
def gpus(names: tuple[str, ...], as_json: bool, format_: str | None, output: str | None, no_color: bool) -> Work:
    """List the GPUs that --gpu knows, or those of a NAME: their memory, and what decides which kernels run on them.

    The names of the list are matched in any case, with and without blanks and hyphens: a100-80gb, rtx4090, 4090.
    """
    return functools.partial(
        _list_gpus, names, choose_format(as_json, format_, output), check_output(output), color=not no_color
    )


def _list_gpus(names: tuple[str, ...], format_: str, output: Path | None, *, color: bool) -> int:
    """Print or write the catalogue of GPUs, or its cards of these names, and return the exit code."""
    from inspector.hardware.catalogue import catalogue, find_gpus
    from inspector.render.gpus import build_gpus_document, render_gpus_json

    gpus = find_gpus(names) if names else catalogue()
    with open_output(output) as stream:
        if format_ == "json":
            render_gpus_json(gpus, stream)
        else:
            render_document(build_gpus_document(gpus), format_, stream, color=color)
    return ExitCode.DONE
