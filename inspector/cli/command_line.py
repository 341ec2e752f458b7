"""The command as it can be typed again: what a page says of how it was made."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import click
from click.core import ParameterSource

__all__ = ["spell_command"]

# Options that say how the command talks, and not what it finds.
_OF_THE_TERMINAL = frozenset({"quiet", "no_cache", "no_color", "version"})


def spell_command(context: click.Context, name: str = "inspect") -> str:
    """Return the command line of a context, quoted for a POSIX shell: arguments and what was typed of the options."""
    arguments: list[str] = name.split()
    options: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name in _OF_THE_TERMINAL or value is None:
            continue
        if isinstance(parameter, click.Option):
            source = context.get_parameter_source(parameter.name or "")
            if source is not ParameterSource.COMMANDLINE:
                continue
            options += _list_option_words(parameter, value)
        else:
            arguments += value if isinstance(value, tuple) else [str(value)]
    return shlex.join([*arguments, *options])


def _list_option_words(option: click.Option, value: Any) -> Iterator[str]:
    """Yield an option with its value, as often as it was given."""
    if option.is_flag:
        yield option.opts[0] if value or not option.secondary_opts else option.secondary_opts[0]
        return
    for item in value if option.multiple else (value,):
        yield from (option.opts[0], str(item))
