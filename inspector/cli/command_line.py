"""The command as it can be typed again: what a page says of how it was made."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Any, cast

import click
from click.core import ParameterSource

__all__ = ["spell_command", "spell_options"]

# Options that say how the command talks, and not what it finds.
_OF_THE_TERMINAL = frozenset({"quiet", "no_cache", "no_color", "version"})


def spell_command(context: click.Context, name: str = "inspect") -> str:
    """Return the command line of a context, quoted for a POSIX shell: arguments and what was typed of the options."""
    arguments: list[str] = name.split()
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if not isinstance(parameter, click.Option) and value is not None:
            arguments += value if isinstance(value, tuple) else [str(value)]
    return shlex.join([*arguments, *_list_typed_options(context, _OF_THE_TERMINAL)])


def spell_options(context: click.Context, *left_out: str) -> str:
    """Return what was typed of a context's options, but for some, as `spell_command` does."""
    return shlex.join(_list_typed_options(context, {*_OF_THE_TERMINAL, *left_out}))


def _list_typed_options(context: click.Context, left_out: AbstractSet[str]) -> Iterator[str]:
    """Yield the words of the options that were typed."""
    for parameter in context.command.params:
        value, source = context.params.get(parameter.name or ""), context.get_parameter_source(parameter.name or "")
        is_typed = isinstance(parameter, click.Option) and source is ParameterSource.COMMANDLINE
        if is_typed and value is not None and parameter.name not in left_out:
            yield from _list_option_words(cast(click.Option, parameter), value)


def _list_option_words(option: click.Option, value: Any) -> Iterator[str]:
    """Yield an option with its value, as often as it was given."""
    if option.is_flag:
        yield option.opts[0] if value or not option.secondary_opts else option.secondary_opts[0]
        return
    for item in value if option.multiple else (value,):
        yield from (option.opts[0], str(item))
