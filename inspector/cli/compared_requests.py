"""What `inspect compare` is given: models, reports and the options of `--with` -> recipes with their names.

`--with` takes options as one argument, split as a shell does. What they say replaces what the command says, and
`--lora` replaces `--peft`, since an adapter is one or the other.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from inspector.cli.group import add_hint, describe_click_error
from inspector.cli.jobs import Job, build_job
from inspector.cli.option_groups.engines import OF_ENGINES, read_serving
from inspector.cli.options import PARAMETERS, list_parameters_without
from inspector.errors import InspectorError, UsageError, quoted
from inspector.records.request import Request
from inspector.source.bounded_json import read_object

__all__ = ["Recipes", "read_recipes"]

Recipes = Sequence[tuple[str, Request | Mapping[str, Any]]]
# What a recipe of its own has no say in: where and how the whole is written, and what a comparison does not show.
_NOT_OF_A_RECIPE = (
    *("model", "fit", "advice", "depth", "context", "as_json", "format_", "output", "quiet", "no_color", "version"),
    *("count_only", "offline", "no_cache"),
)
# What a JSON file has that can be compared: a report, the configuration of a model or an adapter, a training file.
_OF_OTHER_FILES = frozenset(
    ("schema", "model_type", "architectures", "auto_map", "peft_type", "base_model", "model_name_or_path", "model")
)
_UNUSED: Mapping[str, Any] = {"fit": None, "advice": False, "depth": 0}
# What an engine reads beside its own options, and where the comparison goes.
_OF_A_SERVED_MODEL = frozenset(
    (
        *("revision", "dtype", "model_class", "trust_remote_code", "assume_defaults", "offline"),
        *("gpus_", "gpu_memory", "gpu_count", "as_json", "format_", "output", "quiet", "no_cache", "no_color"),
    )
)
# An adapter is described by these or by --peft.
_OF_LORA = ("lora", "targets", "exclude_targets", "modules_to_save")


def read_recipes(models: Sequence[str], others: Sequence[str], options: Mapping[str, Any]) -> tuple[Recipes, Job]:
    """Return the recipes with their names, and a job that says where the comparison goes.

    `options` are those of the command. Raises UsageError for a comparison of one thing and for what --with cannot take.
    """
    typed = _list_typed_options()
    reports = {model: report for model in models if (report := _read_report(model)) is not None}
    if others and len(models) > 1:
        raise UsageError("--with changes options of one MODEL: name one, or compare several without --with.")
    if others and reports:
        raise UsageError(f"{quoted(models[0])} is a report, which --with cannot change: name its model instead.")
    if len(models) + len(others) < 2:
        raise UsageError('one recipe cannot be compared: add --with "--gradient-checkpointing", or another MODEL.')
    if typed and all(model in reports for model in models):
        raise UsageError(f"reports are compared as they are: drop {typed[0]}, or name a model instead.")
    recipes: list[tuple[str, Request | Mapping[str, Any]]] = []
    for model in models:
        if model in reports:
            recipes.append((model, reports[model]))
        else:
            recipes.append((" ".join((model, *typed)), _build(model, options, None).request))
    for text in others:
        parsed = _settle_conflicts(_parse_options(text))
        names = {name for name in options if _is_typed(name)} | set(parsed)
        recipes.append((f"with {text}", _build(models[0], {**options, **parsed}, names).request))
    return recipes, _build(models[0], options, None)


def _build(model: str, options: Mapping[str, Any], typed: Collection[str] | None) -> Job:
    """Return the job of the values of options; an engine reads none of those that are about a step."""
    values = dict(options)
    serving = read_serving(values)
    if serving is not None:
        defaults = _make_parser().make_context("--with", []).params
        values |= {name: defaults[name] for name in values if name in defaults and name not in _OF_A_SERVED_MODEL}
    return build_job(model=model, typed=typed, serving=serving, **values, **_UNUSED)


def _make_parser() -> click.Command:
    """Return what reads the options of a recipe."""
    params = [*list_parameters_without(*_NOT_OF_A_RECIPE), *OF_ENGINES]
    return click.Command("--with", params=params, add_help_option=False)


def _parse_options(text: str) -> dict[str, Any]:
    """Return the values of the options in the text of a `--with`."""
    what = f"--with {quoted(text, 80)}"
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{what}: a quotation does not end; correct it.") from error
    if not words:
        raise UsageError("--with is empty: give options, as in --with '--gradient-checkpointing'.")
    try:
        context = _make_parser().make_context("--with", words)
    except click.ClickException as error:
        message = f"{what}: {describe_click_error(error, PARAMETERS, 300)}"
        raise UsageError(add_hint(message, "give options of a recipe as in inspect --help.")) from error
    return {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


def _settle_conflicts(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the options of a recipe put in the place of the command's."""
    replaced = dict(given)
    if given.get("peft") is not None and not any(given.get(name) for name in _OF_LORA):
        replaced |= dict.fromkeys(_OF_LORA)
    elif given.get("lora") is not None and given.get("peft") is None:
        replaced["peft"] = None
    if given.get("engine") is not None:  # another engine has other options
        replaced = {**dict.fromkeys(parameter.name or "" for parameter in OF_ENGINES), **replaced}
    if given.get("gpus_") or given.get("gpu_memory"):
        replaced = {"gpus_": (), "gpu_memory": (), **replaced}
    return replaced


def _read_report(model: str) -> Mapping[str, Any] | None:
    """Return the report that a file holds, None for what is to be inspected: an id, a folder, a config.json."""
    if "\0" in model:
        return None
    path = Path(model)
    try:
        if not path.is_file():
            return None
    except OSError:  # a name that is too long
        return None
    try:
        content = read_object(path)
    except InspectorError:
        if model.lower().endswith(".json"):
            raise
        return None  # no JSON, and not called so: what is wrong with it as a model is said elsewhere
    schema = content.get("schema")
    if model.lower().endswith(".json") and not content.keys() & _OF_OTHER_FILES:
        raise UsageError(
            f"{quoted(model)} is no report, which inspect MODEL --json writes, and no config.json: it has neither a "
            "schema nor a model_type; name another file."
        )
    return content if isinstance(schema, str) and schema.startswith("inspector") else None


def _is_typed(name: str) -> bool:
    """Tell whether the command at hand was given an option."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _list_typed_options() -> list[str]:
    """Return the options of recipes that the command at hand was given, as they are typed."""
    context = click.get_current_context()
    names = {parameter.name for parameter in (*list_parameters_without(*_NOT_OF_A_RECIPE), *OF_ENGINES)}
    words = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in names or not _is_typed(name):
            continue
        value = context.params[name]
        if value is True or value is False:
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            items = value if isinstance(value, tuple) else (value,)
            words += [f"{parameter.opts[0]} {shlex.quote(str(item))}" for item in items]
    return words
