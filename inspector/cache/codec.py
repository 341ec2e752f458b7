"""Records <-> JSON values, for what is kept on disk: no pickle, and nothing that a file could make run.

Records (dataclasses and enums of `inspector.records`) are lists that begin with a mark and the class, by the name of
its module below `inspector.records`; a file can name no other class. Tuples, lists and sets stay apart, and mappings
keep their order and the type of their keys. What holds anything else, such as a live model, cannot be kept.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["NotKeptError", "decode", "encode"]

_RECORDS = "inspector.records."
_NAME = re.compile(r"[a-z_.]+:[A-Za-z]+")
# JSON lists are marked values; these are what the first element says of the rest.
_TUPLE, _LIST, _SET, _FROZEN_SET, _MAPPING, _ENUM, _RECORD = range(7)


class NotKeptError(Exception):
    """The value is none that can be kept, or the text none that was written here."""


def encode(value: Any) -> Any:
    """Return a value as JSON values; raise NotKeptError where it holds something else than records and plain values."""
    kind: Any = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is tuple:
        return [_TUPLE, *map(encode, value)]
    if kind is list:
        return [_LIST, *map(encode, value)]
    if kind in (set, frozenset):
        return [_SET if kind is set else _FROZEN_SET, *sorted(map(encode, value), key=repr)]
    if isinstance(value, enum.Enum):
        return [_ENUM, _name(kind), value.value]
    if dataclasses.is_dataclass(value):
        return [_RECORD, _name(kind), *(encode(getattr(value, name)) for name in _list_fields(kind))]
    if isinstance(value, Mapping):
        return [_MAPPING, *([encode(key), encode(item)] for key, item in value.items())]
    raise NotKeptError(f"{kind.__name__} is no record")


def decode(value: Any) -> Any:
    """Return the value that `encode` made JSON values of; raise NotKeptError for values of any other form."""
    if not isinstance(value, list):
        return value
    try:
        kind, *items = value
        if kind == _TUPLE:
            return tuple(map(decode, items))
        if kind == _LIST:
            return list(map(decode, items))
        if kind in (_SET, _FROZEN_SET):
            return (set if kind == _SET else frozenset)(map(decode, items))
        if kind == _MAPPING:
            return {decode(key): decode(item) for key, item in items}
        name, *fields = items
        found = _find_class(name)
        if kind == _ENUM and issubclass(found, enum.Enum):
            return found(*fields)
        if kind == _RECORD and dataclasses.is_dataclass(found):
            return _make(found, map(decode, fields))
    except (TypeError, ValueError, LookupError, AttributeError, ImportError) as error:
        raise NotKeptError(str(error)) from error
    raise NotKeptError("of another form")


def _make(found: Any, values: Any) -> Any:
    """Return a record of these values as they were checked when it was made first."""
    record = object.__new__(found)
    for name, value in zip(_list_fields(found), values, strict=True):
        object.__setattr__(record, name, value)
    return record


@functools.cache
def _list_fields(kind: type) -> tuple[str, ...]:
    """Return the names of a record's fields."""
    return tuple(item.name for item in dataclasses.fields(kind))


@functools.cache
def _name(kind: type) -> str:
    """Return what a class of `inspector.records` is found by."""
    if not kind.__module__.startswith(_RECORDS):
        raise NotKeptError(f"{kind.__module__}.{kind.__qualname__} is no record")
    return f"{kind.__module__.removeprefix(_RECORDS)}:{kind.__qualname__}"


@functools.cache
def _find_class(name: str) -> Any:
    """Return the class of `inspector.records` that is found by a name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise NotKeptError("of another form")
    module, _, kind = name.partition(":")
    found = getattr(importlib.import_module(_RECORDS + module), kind)
    if not isinstance(found, type) or found.__module__ != _RECORDS + module:
        raise NotKeptError(f"{name} is no record")
    return found
