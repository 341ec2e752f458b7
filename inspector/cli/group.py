"""`inspect MODEL` and the words that are no model: how one command has subcommands.

click's own groups want a subcommand always. Here the first word decides: a subcommand's name starts that command, and
anything else is what `inspect MODEL` reads, options in front included.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from inspector.cli.help_sections import WithSections
from inspector.errors import one_line

__all__ = [
    "CONTEXT_SETTINGS",
    "SUBCOMMANDS",
    "WithSubcommands",
    "Work",
    "add_hint",
    "describe_click_error",
    "subcommand",
    "suggest_subcommand",
]

# What a command returns: the work that its arguments ask for, which returns the exit code.
Work = Callable[[], int]
CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
SUBCOMMANDS: dict[str, click.Command] = {}


# What launchers and other tools call it.
_OF_SEVERAL_GPUS = frozenset(
    (
        *("--num-gpus", "--n-gpus", "--num-processes", "--num_processes", "--nproc-per-node", "--nproc_per_node"),
        *("--world-size", "--nnodes", "--num-machines", "--tp", "--tp-size", "--ddp"),
        *("--ep", "--ep-size", "--expert-parallel-size", "--enable-expert-parallel"),
        *("--zero", "--zero-stage", "--use-fsdp", "--multi-gpu", "--data-parallel", "--dp"),
    )
)

# What shares cards in a way that no trace has.
_NOT_OVER_CARDS = {
    "stages of layers": ("--pp", "--pp-size", "--pipeline-parallel", "--pipeline-parallel-size"),
    "parts of a sequence": ("--cp", "--cp-size", "--sp", "--sp-size", "--context-parallel", "--sequence-parallel"),
}


class WithSubcommands(WithSections):
    """A command with subcommands beside it; the first word alone decides which one runs."""

    subcommands = SUBCOMMANDS

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Return the context of the command that the first word names; completion asks for it, too."""
        chosen = self.subcommands.get(args[0]) if args else None
        if chosen is None:
            return super().make_context(info_name, args, parent, **extra)
        return chosen.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the context was made for."""
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the subcommands do in a line each, then the options."""
        with formatter.section("Other commands (a directory of such a name is given as ./gpus)"):
            formatter.write_dl([(name, each.get_short_help_str(200)) for name, each in self.subcommands.items()])
        super().format_options(ctx, formatter)


def suggest_subcommand(words: Sequence[str]) -> str | None:
    """Return the subcommand that the first of the words was probably meant for; None for what is a file or an id."""
    word = words[0] if words else ""
    if not re.fullmatch("[A-Za-z]{3,12}", word) or word in SUBCOMMANDS or Path(word).exists():
        return None
    return next(iter(difflib.get_close_matches(word.lower(), SUBCOMMANDS, n=1)), None)


def describe_click_error(error: click.ClickException, known: Sequence[click.Parameter], length: int) -> str:
    """Return what click says of arguments that it refuses, in one line without a full stop.

    `known` are the parameters of `inspect MODEL`: for one that another command does not have, click would propose
    whatever is spelt alike.
    """
    if isinstance(error, click.NoSuchOption) and any(error.option_name in parameter.opts for parameter in known):
        return f"{error.option_name} is an option of inspect MODEL and has no place here"
    if isinstance(error, click.NoSuchOption) and error.option_name in _OF_SEVERAL_GPUS:
        several = (
            "several cards are --gpu 2x4090, or --gpus 2; what they share is --fsdp, --deepspeed zero3 or "
            "--tensor-parallel 2, experts of their own are --expert-parallel 2, and shards within each machine are "
            "--nodes 2"
        )
        return f"{error.option_name} is no option: {several}"
    if isinstance(error, click.NoSuchOption):
        for what, names in _NOT_OVER_CARDS.items():
            if error.option_name in names:
                return (
                    f"{error.option_name} is no option: {what} on cards of their own are not traced; what is shared "
                    "over cards is said by --fsdp, --deepspeed, --tensor-parallel or --device-map"
                )
    message = one_line(error.format_message(), length).rstrip(".")
    for type_, meant in (("integer range", "an integer"), ("float range", "a number")):
        message = message.replace(f" is not a valid {type_}", f" is not {meant}")
    return message


def add_hint(message: str, hint: str) -> str:
    """Return a message with what to do about it behind it; one that asks ends there."""
    return f"{message} {hint[0].upper()}{hint[1:]}" if message.endswith("?") else f"{message}; {hint}"


def subcommand(parameters: Sequence[click.Parameter] = ()) -> Callable[[Callable[..., Work]], click.Command]:
    """Return a decorator that makes a function a subcommand, called like the function.

    `parameters` are those that it shares with other commands.
    """

    def register(function: Callable[..., Work]) -> click.Command:
        registered = click.command(
            cls=WithSections if parameters else click.Command, context_settings=CONTEXT_SETTINGS
        )(function)
        registered.params = [*parameters, *registered.params]
        if registered.name is None or registered.name in SUBCOMMANDS:
            raise ValueError(f"two subcommands called {registered.name}")
        SUBCOMMANDS[registered.name] = registered
        return registered

    return register
