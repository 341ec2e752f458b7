"""A training file -> what a Request needs of it, and the record of where each value is from."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspector.errors import UnsupportedModelError, UsageError, one_line, quoted
from inspector.records.training_file import FieldNotModelled, FileField, Origin, TrainingFile, UnreadField
from inspector.training_files.calls import Spread, find_framework, find_other_trainer, spread_calls
from inspector.training_files.fields import Framework, Settings, Values, check_kind
from inspector.training_files.frameworks.stages import find_traced
from inspector.training_files.frameworks.torchtune import explain_torchtune
from inspector.training_files.names import COMMAND_LINE, has_suffix
from inspector.training_files.reading import read_document
from inspector.training_files.recognise import (
    FRAMEWORKS,
    LAUNCHERS,
    TORCHTUNE,
    find_path,
    parse_framework,
    recognise,
)
from inspector.training_files.scripts import Calls
from inspector.training_files.secrets import hide_secrets
from inspector.training_files.versions import find_version

__all__ = ["ReadFile", "read_launch_file", "read_training_file"]

# An unknown field this like one that decides memory is a slip of the pen.
_ALIKE = 0.85
_LONGEST_VALUE = 300
_USUAL_REVISION = "main"
# What settles other fields and is none of a request; and code of a repository, which the user alone allows to run.
_NOT_OF_A_FILE = ("plugins", "trust_remote_code")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFile:
    """A file that was read: its record, and the fields of a Request and of its Recipe that it sets."""

    record: TrainingFile
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_training_file(model: str, *, framework: str | None = None) -> ReadFile | None:
    """Return what a model's name says where it names a training file, None where it names anything else.

    Raises UsageError where the file cannot be read or is no trainer's, UnsupportedModelError for torchtune's.
    """
    if not has_suffix(model):
        return None
    path = find_path(model)
    asked = None if framework is None else parse_framework(framework)
    if path is None:
        if model.lower().endswith(".json") or Path(model).is_dir():
            return None
        raise UsageError(f"there is no file {quoted(model, 100)}; name a training file, a directory or a Hub id.")
    document = _read(path, model, is_asked=asked is not None)
    if document is None:
        return None
    if isinstance(document, Calls):
        return _read_calls(document, model, asked)
    name = asked[0] if asked else recognise(document, model)
    if name == TORCHTUNE:
        raise UnsupportedModelError(explain_torchtune(document, model))
    if name is None:
        if model.lower().endswith(".json"):
            return None
        raise UsageError(
            f"{quoted(model, 100)} is no file of a trainer that is known here; name one of axolotl, LLaMA-Factory, TRL "
            "or transformers, or say whose it is with `framework`."
        )
    chosen = FRAMEWORKS[name]
    if chosen in LAUNCHERS:
        raise UsageError(
            f"{quoted(model, 100)} says how {chosen.name} launches a run and names no model; give it as "
            "`launch` beside a model or a training file."
        )
    return _settle(chosen, document, model, asked[1] if asked else None, Settings())


def read_launch_file(name: str) -> ReadFile:
    """Return what a file of accelerate, DeepSpeed or a DistributedConfig says; raise UsageError where it is none."""
    path = find_path(name)
    if path is None:
        raise UsageError(f"`launch`: there is no file {quoted(name, 100)}; name a YAML or JSON file.")
    document = read_document(path)
    found = None if isinstance(document, Calls) else recognise(document, name)
    if found is None or FRAMEWORKS.get(found) not in LAUNCHERS or isinstance(document, Calls):
        raise UsageError(
            f"`launch` {quoted(name, 100)} is neither accelerate's YAML nor DeepSpeed's JSON, nor has it sizes "
            "of transformers' DistributedConfig; name one of these."
        )
    return _settle(FRAMEWORKS[found], document, name, None, Settings())


def _read(path: Path, model: str, *, is_asked: bool) -> Mapping[str, Any] | Calls | None:
    """Return the document of a file, None for a JSON that is better explained as a model's."""
    if path.suffix.lower() != ".json" or is_asked:
        return read_document(path)
    with contextlib.suppress(UsageError):
        return read_document(path)
    return None


def _read_calls(calls: Calls, model: str, asked: tuple[str, str | None] | None) -> ReadFile:
    """Return what the calls of a script say."""
    if (other := find_other_trainer(calls)) is not None:
        raise UnsupportedModelError(
            f"{quoted(model, 100)} runs {other}, whose step is not traced; nearest are --stage grpo, where answers are "
            "generated, and dpo, where they are compared: give a model and these options instead."
        )
    name = asked[0] if asked else find_framework(calls)
    if name is None:
        raise UsageError(
            f"{quoted(model, 100)} makes no TrainingArguments, configuration of TRL or model that can be read without "
            "running it; give the options instead, or name a YAML file."
        )
    settings = Settings()
    if calls.parser is not None and "args" not in calls.arguments:
        settings.remark(
            COMMAND_LINE,
            f"{one_line(model, 60)} takes its arguments from the command line ({calls.parser}) and has none itself: "
            "defaults are taken for them. Put those of your command into a YAML file, a field a line, and name that "
            "(--config of TRL's scripts reads it, too), or give options.",
        )
    spread = spread_calls(calls, name)
    settings.stage = spread.stage
    for kind, argument in calls.unread:
        called = calls.called.get(kind, kind)
        assumed = "arguments of a dictionary were not read" if argument == "**" else "the default was taken"
        settings.unread.append(UnreadField(name=f"{argument} in {called}", assumed=assumed))
    return _settle(FRAMEWORKS[name], spread.document, model, asked[1] if asked else None, settings, spread)


def _settle(
    framework: Framework,
    document: Mapping[str, Any],
    path: str,
    version: str | None,
    settings: Settings,
    spread: Spread | None = None,
) -> ReadFile:
    """Return what a document of a framework means, and the record of it."""
    found, installed = find_version(framework)
    values = Values(path=path, framework=framework.name, version=version or found, names=frozenset(document))
    known, unknown = framework.index(), []
    for name, value in document.items():
        item = known.get(name)
        if item is None:
            if name not in framework.others:
                unknown.append(name)
            continue
        if item.name in values.given and values.given[item.name] is not None:
            continue
        values.given[item.name] = value
        values.spelled[item.name] = name if spread is None else spread.spelled[name]
    if spread is None:
        _refuse_slips(framework, values, unknown)
    for item in framework.fields:
        if item.name in values.given:
            values.given[item.name] = check_kind(values, item)
            if item.becomes == "max_grad_norm" and values.given[item.name] is None:  # null is no clipping
                values.given[item.name] = 0.0
        default = item.find_default(values.version)
        if default is not None:
            values.defaults[item.name] = default
    values.defaults |= {} if spread is None else spread.defaults
    for item in framework.fields:
        value = values[item.name]
        if item.becomes is not None and "." not in item.becomes and value is not None:
            settings.fields[item.becomes] = value
    framework.settle(values, settings)
    if version is None:
        _remark_older_names(framework, values, settings)
    settings.fields["stage"] = traced = find_traced(settings.stage)
    if traced is not None and settings.fields.get("loss") not in ("fused", "float32"):  # of supervised training
        settings.fields.pop("loss", None)
    for name in _NOT_OF_A_FILE:
        settings.fields.pop(name, None)
    if settings.fields.get("revision") == _USUAL_REVISION:  # as none says
        del settings.fields["revision"]
    record = TrainingFile(
        path=path,
        framework=framework.name,
        version=values.version,
        version_from="option" if version else installed,
        stage=settings.stage,
        fields=(*_list_fields(framework, values), *settings.assumed),
        not_modelled=tuple(_list_not_modelled(framework, values, settings)),
        unread=tuple(settings.unread),
        remarks=tuple(settings.remarks),
        unknown=tuple(one_line(name, 60) for name in unknown),
        spelling=hide_secrets({name: value for name, value in values.given.items() if not isinstance(value, dict)}),
        spelled=values.spelled,
    )
    return ReadFile(
        record=record, settings={name: value for name, value in settings.fields.items() if value is not None}
    )


def _remark_older_names(framework: Framework, values: Values, settings: Settings) -> None:
    """Note names that a framework had in earlier releases alone: its defaults and its step were others then."""
    for name, since in framework.gone.items():
        if name in values.names and values.is_at_least(since):
            message = (
                f"{name} of {one_line(values.path, 60)} is a field of {framework.name} before {since}, and the file is "
                f"read as {framework.name} {values.version}, whose defaults and step are others: name the release that "
                f"runs it, as in `framework={framework.package}==VERSION`."
            )
            settings.remark("older-release", message)


def _refuse_slips(framework: Framework, values: Values, unknown: list[str]) -> None:
    """Refuse a field that is nearly one that decides memory, where that one is not given."""
    names = {name: item for name, item in framework.index().items() if item.becomes is not None}
    for name in unknown:
        near = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1, cutoff=_ALIKE)
        if near and not values.has(names[near[0]].name):
            raise UsageError(
                f"{quoted(values.path, 100)}: {quoted(name, 60)} is no field of {framework.name}; did you mean "
                f"{near[0]}?"
            )


def _list_fields(framework: Framework, values: Values) -> Iterator[FileField]:
    """Yield the fields that decide the step, those of the file first."""
    for origin in (Origin.FILE, Origin.DEFAULT):
        for item in framework.fields:
            given = values.has(item.name)
            if item.becomes is None or given is not (origin is Origin.FILE) or values[item.name] is None:
                continue
            if origin is Origin.DEFAULT and item.becomes.startswith("peft.") and not _has_adapter(framework, values):
                continue
            value = _shorten(hide_secrets(values[item.name]))
            yield FileField(name=values.spell(item.name), value=value, origin=origin, becomes=item.becomes)


def _has_adapter(framework: Framework, values: Values) -> bool:
    """Tell whether the defaults of an adapter play a part."""
    names = [item.name for item in framework.fields if item.becomes == "peft"]
    return any(values[name] not in (None, False, "full", "freeze") for name in names) or framework.name == "Unsloth"


def _list_not_modelled(framework: Framework, values: Values, settings: Settings) -> Iterator[FieldNotModelled]:
    """Yield what changes memory and is in no figure: fields of the file that are on, then what was noted beside."""
    for item in framework.fields:
        value = values.given.get(item.name)
        if item.effect is None or item.name in settings.silent or not item.is_on(value):
            continue
        yield FieldNotModelled(
            name=values.spell(item.name),
            value=_shorten(hide_secrets(value)),
            origin=Origin.FILE,
            effect=item.effect,
            why=item.why,
        )
    yield from settings.not_modelled


def _shorten(value: Any) -> Any:
    """Return a value as it is kept in a record: text of a bounded length."""
    if isinstance(value, str):
        return one_line(value, _LONGEST_VALUE)
    if isinstance(value, (list, dict)) and len(str(value)) > _LONGEST_VALUE:
        return one_line(str(value), _LONGEST_VALUE)
    return value
