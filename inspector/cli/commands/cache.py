"""`inspect cache`: what is kept of earlier questions, and how to be rid of it."""

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
from inspector.errors import UsageError

__all__ = ["cache"]


@subcommand()
@click.argument("action", type=click.Choice(("list", "clear")), default="list")
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="How to print the list; default: text.")
@click.option("--output", shell_complete=complete_file, metavar="FILE", help="Write the list there.")
@click.option("--no-color", is_flag=True, help="No colour; NO_COLOR does the same.")
def cache(action: str, as_json: bool, format_: str | None, output: str | None, no_color: bool) -> Work:
    """List what is kept of earlier questions, model by model, or clear it.

    A question that was answered before is answered at once, from a folder of the user's cache directory that
    INSPECTOR_CACHE moves, or turns off. What was kept holds for the very libraries and configuration that it was found
    with; of more than 256 MiB, what was not asked for longest goes.

    \b
    inspect cache
    inspect cache clear
    """  # noqa: D301  # as above
    if action == "clear":
        if as_json or format_ is not None or output is not None:
            raise UsageError("inspect cache clear prints one line: drop --json, --format and --output.")
        return _clear
    return functools.partial(_list, choose_format(as_json, format_, output), check_output(output), color=not no_color)


def _list(format_: str, output: Path | None, *, color: bool) -> int:
    """Print or write what is kept, and return the exit code."""
    from inspector.cache.store import find_folder, list_entries
    from inspector.render.cache import build_cache_document, render_cache_json

    folder = find_folder()
    entries = [] if folder is None else list(list_entries(folder))
    with open_output(output) as stream:
        if format_ == "json":
            render_cache_json(folder, entries, stream)
        else:
            render_document(build_cache_document(folder, entries), format_, stream, color=color)
    return ExitCode.DONE


def _clear() -> int:
    """Remove what is kept, say how much it was, and return the exit code."""
    from inspector.cache.store import find_folder, list_files, remove_oldest
    from inspector.units import format_bytes

    folder = find_folder()
    with open_output(None) as stream:
        if folder is None:
            stream.write("Nothing is kept: INSPECTOR_CACHE turns the cache off.\n")
            return ExitCode.DONE
        before = sum(state.st_size for _, state in list_files(folder))
        removed = remove_oldest(folder, 0)
        left = [state.st_size for _, state in list_files(folder)]
        stream.write(f"Removed {removed:,} files, {format_bytes(before - sum(left))}, from {folder}\n")
    if left:
        raise UsageError(f"{len(left):,} files in {folder} cannot be removed: check whose they are.")
    return ExitCode.DONE
