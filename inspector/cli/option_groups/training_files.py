"""Options about training files, and which options of a command go before what such a file says: those that were typed.

Standard library and click only, as `options`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import click
from click.core import ParameterSource

from inspector.cli.completion import complete_file

__all__ = ["OF_A_TRAINING_FILE", "find_given"]


OF_A_TRAINING_FILE: tuple[click.Parameter, ...] = (
    click.Option(
        ["--framework"],
        metavar="NAME[==VERSION]",
        help="Framework of a training file, whose defaults apply, such as axolotl==0.21; default: recognized by its "
        "keys, in the installed version, else the newest known.",
    ),
    click.Option(
        ["--base-model"],
        metavar="ID",
        help="Model to use instead of the one that a training file names, such as a path on another machine.",
    ),
    click.Option(
        ["--launch"],
        multiple=True,
        metavar="FILE",
        shell_complete=complete_file,
        help="accelerate's YAML or DeepSpeed's JSON, which says over how many GPUs the run is sharded, and how; "
        "repeatable.",
    ),
    click.Option(
        ["--strict"],
        is_flag=True,
        help="Exit with 2 where a training file has a field that changes memory and is not modelled.",
    ),
)
# Parameters that set a field of another name.
_FIELDS: Mapping[str, str] = {
    **dict.fromkeys(("lora", "targets", "exclude_targets", "modules_to_save", "peft"), "peft"),
    "gpus_": "gpus",
    "fsdp": "sharding",
    "fsdp_version": "sharding",
    "deepspeed": "sharding",
}


def find_given(typed: Collection[str] | None) -> frozenset[str]:
    """Return the fields that `typed` parameters set, by default those that the command at hand was given."""
    names = _list_typed() if typed is None else typed
    return frozenset(_FIELDS.get(name, name) for name in names)


def _list_typed() -> list[str]:
    """Return the parameters that the command at hand was given."""
    context = click.get_current_context(silent=True)
    if context is None:
        return []
    return [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
