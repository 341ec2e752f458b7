"""What the shell offers for a word that is half typed; nothing heavy is loaded for it."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

__all__ = ["complete_file", "complete_gpu", "complete_model"]


def complete_file(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell offer names of files."""
    return [CompletionItem(incomplete, type="file")]


def complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer subcommands and the ids of the bundled catalogue, and files for what looks like a path or starts no id."""
    from inspector.source.catalogue import list_ids

    if not incomplete.startswith((".", "/", "~")):
        known = (*getattr(context.command, "subcommands", ()), *list_ids())
        names = [CompletionItem(name) for name in known if name.lower().startswith(incomplete.lower())]
        if names:
            return names
    return complete_file(context, parameter, incomplete)


def complete_gpu(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of the catalogue as one word each."""
    from inspector.hardware.catalogue import catalogue

    names = [gpu.name.lower().replace(" ", "-") for gpu in catalogue()]
    return [CompletionItem(name) for name in names if name.startswith(incomplete.lower())]
