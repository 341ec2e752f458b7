"""`inspect models`: the catalogue of models."""

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
from inspector.errors import UsageError, quoted

__all__ = ["models"]


@subcommand()
@click.argument("filters", nargs=-1, metavar="[FILTER]...")
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("--format", "format_", type=click.Choice((*FORMATS, "csv")), help="How to print the list; default: text.")
@click.option("--output", shell_complete=complete_file, metavar="FILE", help="Write the list there.")
@click.option("--no-color", is_flag=True, help="No colour; NO_COLOR does the same.")
def models(filters: tuple[str, ...], as_json: bool, format_: str | None, output: str | None, no_color: bool) -> Work:
    """List the models that are known without network: id, model type and published number of parameters.

    FILTER is a part of an id, of another name of the model, or of its model type, in any case; of several, all have to
    fit. `inspect models llama 8b`, for one.
    """
    chosen = choose_format(as_json, format_, output, ("csv",))
    return functools.partial(_list_models, filters, chosen, check_output(output), color=not no_color)


def _list_models(filters: tuple[str, ...], format_: str, output: Path | None, *, color: bool) -> int:
    """Print or write the models that fit all filters, and return the exit code."""
    from inspector.render.models import build_models_document, render_models_csv, render_models_json
    from inspector.source.catalogue import list_entries

    found = list_entries(filters)
    if not found:
        asked = quoted(" ".join(filters), 60)
        raise UsageError(f"no model of the bundled catalogue has {asked}; see inspect models for all of them.")
    with open_output(output) as stream:
        if format_ == "json":
            render_models_json(found, stream)
        elif format_ == "csv":
            render_models_csv(found, stream)
        else:
            render_document(build_models_document(found), format_, stream, color=color)
    return ExitCode.DONE
