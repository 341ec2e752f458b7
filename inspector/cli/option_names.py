"""Messages of the core -> messages of the command: settings named as in Python become options.

The core names a setting as Python does, in backticks: `batch_size`, `attention="sdpa"`, `offline=True`. The command
spells those that it has an option for: --batch-size, --attention sdpa, --offline. Whatever else stands in backticks
stays as it is.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping

import click

from inspector.cli.option_groups.cards import RANK
from inspector.cli.option_groups.engines import OF_ENGINES
from inspector.cli.options import PARAMETERS
from inspector.records.notice import Notice

__all__ = ["name_options", "name_options_in_notices"]

_SETTING = re.compile(r"`(\w+)(?:=([^`]*))?`")
_LORA = re.compile(r"LoraOptions\((.*)\)")
# What Python has no argument for: in backticks these words mean something else.
_OF_THE_COMMAND_ALONE = ("json", "format", "output", "quiet", "no_cache", "no_color", "version")
# What Python and PEFT call otherwise than the option that sets it.
_ALIASES = {"target_modules": "targets", "exclude_modules": "exclude_targets", "gpu_count": "gpus", "sharding": "fsdp"}


def _map_python_names() -> dict[str, click.Parameter]:
    """Return the parameters of the command by the names that Python has for them, which follow their first spelling."""
    named = {
        parameter.opts[0].removeprefix("--").replace("-", "_"): parameter
        for parameter in (*PARAMETERS, *OF_ENGINES, RANK)
    }
    return {name: parameter for name, parameter in named.items() if name not in _OF_THE_COMMAND_ALONE}


_PARAMETERS: Mapping[str, click.Parameter] = _map_python_names()


def name_options(message: str) -> str:
    """Return a message with the options of the command in the place of Python's names for them."""
    return _SETTING.sub(_spell_setting, message)


def name_options_in_notices(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """Return notices whose messages name options."""
    return tuple(dataclasses.replace(notice, message=name_options(notice.message)) for notice in notices)


def _spell_setting(match: re.Match[str]) -> str:
    """Return the option of a name or of `name=value`; what is no setting of the command stays as it is."""
    name, value = match.groups()
    parameter = _PARAMETERS.get(_ALIASES.get(name, name))
    if parameter is None:
        return match[0]
    if isinstance(parameter, click.Argument):
        return str(parameter.human_readable_name)
    option = parameter.opts[0]
    if value in (None, "True"):
        return option
    if value == "False":
        return parameter.secondary_opts[0] if parameter.secondary_opts else f"without {option}"
    if isinstance(parameter, click.Option) and parameter.is_flag:  # a choice in Python
        return option
    if value.startswith("["):  # a list in Python
        return f"{option} {','.join(json.loads(value))}"
    lora = _LORA.fullmatch(value)
    return f"--lora {lora[1]}" if lora else f"{option} {value.strip(chr(34))}"
