"""Fields of training files: how one line of a table describes one, and what a document holds of a table.

A line with `becomes` is modelled: it sets a field of a Request or a Recipe. A line with `effect` changes memory and is
in no figure yet; to model it, give it `becomes` and read it in its framework's `settle`. A line may have both: how a
step is sharded is said of the cards, and in no byte of the step.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inspector.checks import describe_value
from inspector.errors import UsageError, one_line
from inspector.records.notice import Notice
from inspector.records.training_file import Effect, FieldNotModelled, FileField, Origin, UnreadField
from inspector.training_files.secrets import hide_secrets

__all__ = [
    *("ANY", "COUNT", "FLAG", "LESS", "MAPPING", "MORE", "NAMES", "NUMBER", "TEXT", "UNKNOWN"),
    *("Field", "Framework", "Kind", "Settings", "Values", "check_kind", "misses", "parse_version", "reads"),
]

LESS, MORE, UNKNOWN = Effect.LESS, Effect.MORE, Effect.UNKNOWN


class Kind(enum.Enum):
    """What values a field takes, in the words of an error."""

    COUNT = "an integer of at least 1"
    NUMBER = "a number of at least 0"
    FLAG = "true or false"
    TEXT = "text"
    NAMES = "a name or a list of names"
    MAPPING = "keys with values"
    ANY = "anything"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a framework's files.

    `default_since` holds the default by the version that it came with, `"0"` for the first. `aliases` are other names
    of the same field. `off` are values that change nothing, beside false, null, 0 and empty ones.
    """

    name: str
    kind: Kind
    becomes: str | None = None
    default_since: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    effect: Effect | None = None
    why: str = ""
    off: tuple[Any, ...] = ()

    def find_default(self, version: str) -> Any:
        """Return the default of a version, None where there is none."""
        asked = parse_version(version)
        ages = [since for since in self.default_since if parse_version(since) <= asked]
        return self.default_since[max(ages, key=parse_version)] if ages else None

    def is_on(self, value: Any) -> bool:
        """Tell whether a value changes anything."""
        return bool(value) and value not in ("no", "none", "None", "false", "off", *self.off)


COUNT, NUMBER, FLAG, TEXT, NAMES, MAPPING, ANY = Kind


def reads(name: str, kind: Kind, becomes: str, *, default: Any = None, **others: Any) -> Field:
    """Return a line of a table for a field that is modelled; `default` is the one of every version."""
    if default is not None:
        others["since"] = {"0": default}
    return Field(name=name, kind=kind, becomes=becomes, default_since=others.pop("since", {}), **others)


def misses(name: str, effect: Effect, why: str, *, kind: Kind = Kind.ANY, **others: Any) -> Field:
    """Return a line of a table for a field that changes memory and is not modelled."""
    return Field(name=name, kind=kind, effect=effect, why=why, **others)


@dataclass(slots=True, kw_only=True)
class Values:
    """What a document has of a table, with the defaults of a version; `[name]` is a value, None where there is none.

    `names` are all that the document has, also those that are in no table.
    """

    path: str
    framework: str
    version: str
    names: frozenset[str] = frozenset()
    given: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        given = self.given.get(name)
        return self.defaults.get(name) if given is None else given

    def has(self, name: str) -> bool:
        """Tell whether the document says something of a field."""
        return self.given.get(name) is not None

    def is_at_least(self, version: str) -> bool:
        """Tell whether the framework is of a version or newer."""
        return parse_version(self.version) >= parse_version(version)

    def spell(self, name: str) -> str:
        """Return the name of a field as the document writes it."""
        return self.spelled.get(name, name)

    def refuse(self, name: str, wanted: str) -> UsageError:
        """Return the error of a value that is not wanted; what may be a secret is not repeated."""
        value = hide_secrets(self[name])
        return UsageError(
            f"{one_line(self.path, 100)}: {self.spell(name)} is {describe_value(value)}; give {wanted}, as "
            f"{self.framework} reads it."
        )

    def choose(self, name: str, choices: Mapping[Any, Any]) -> Any:
        """Return what a value means by a table; None means None."""
        value = self[name]
        if value is None:
            return None
        key = value.lower() if isinstance(value, str) else value
        try:
            return choices[key]
        except (KeyError, TypeError):
            known = ", ".join(str(choice) for choice in choices)
            raise self.refuse(name, f"one of {known}") from None


@dataclass(slots=True, kw_only=True)
class Settings:
    """What a document means: fields of a Request and of its Recipe, and what of it is not modelled or was not read.

    `assumed` is what no field of the framework says and a step needs all the same.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    stage: str | None = None
    not_modelled: list[FieldNotModelled] = field(default_factory=list)
    unread: list[UnreadField] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    assumed: list[FileField] = field(default_factory=list)
    remarks: list[Notice] = field(default_factory=list)

    def assume(self, name: str, value: Any, becomes: str) -> None:
        """Note what had to be taken because no field says it."""
        self.assumed.append(FileField(name=name, value=value, origin=Origin.DEFAULT, becomes=becomes))

    def remark(self, code: str, message: str) -> None:
        """Note what a framework itself would say of the file."""
        self.remarks.append(Notice(code=code, message=message))

    def ignore(self, path: str, names: Sequence[str], plugin: str) -> None:
        """Note fields that a framework passes over, since what reads them is not among the plugins of its file."""
        if names:
            named = f"{', '.join(names)} of {one_line(path, 60)}"
            self.remark(
                "fields-ignored", f"{named} change nothing without {plugin} among its plugins: add that, or drop these."
            )

    def miss(self, name: str, value: Any, effect: Effect, why: str, origin: Origin = Origin.DEFAULT) -> None:
        """Note something that changes memory and is not modelled."""
        shown = hide_secrets(value)
        self.not_modelled.append(FieldNotModelled(name=name, value=shown, origin=origin, effect=effect, why=why))


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """A framework: its tables, and how its fields together make a step.

    `newest` is the version whose source was read last, `gone` are names that it no longer has, with the release that
    dropped each. `settle` completes what the lines of the table say one by one;
    `spell` turns fields of a Request or Recipe with new values into fields of the file; a launcher's file has none.
    """

    name: str
    package: str
    newest: str
    fields: tuple[Field, ...]
    others: frozenset[str] = frozenset()
    gone: Mapping[str, str] = field(default_factory=dict)
    settle: Callable[[Values, Settings], None]
    spell: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] = lambda _change, _given: {}

    def index(self) -> dict[str, Field]:
        """Return the fields by all their names."""
        return {name: item for item in self.fields for name in (item.name, *item.aliases)}


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers of a release: 1.16.0 is (1, 16, 0); what is no number ends it."""
    numbers: list[int] = []
    for piece in text.split("."):
        digits = piece[: len(piece) - len(piece.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits[:9]))
    return tuple(numbers)


def check_kind(values: Values, item: Field) -> Any:
    """Return the value of a field in the type of its kind; raise UsageError where it is of another."""
    value = values.given[item.name]
    if value is None or item.kind is Kind.ANY:
        return value
    if item.kind is Kind.COUNT and isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    if item.kind is Kind.NUMBER and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise values.refuse(item.name, item.kind.value) from None
    if item.kind is Kind.FLAG and isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
        value = value.lower() in ("true", "yes")
    if not _CHECKS[item.kind](value):
        raise values.refuse(item.name, item.kind.value)
    return value


def _is_number(value: Any) -> bool:
    """Tell whether a value is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value >= 0 and (isinstance(value, int) or math.isfinite(value))


def _is_names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


_CHECKS: Mapping[Kind, Callable[[Any], bool]] = {
    Kind.COUNT: lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31,
    Kind.NUMBER: _is_number,
    Kind.FLAG: lambda value: isinstance(value, bool),
    Kind.TEXT: lambda value: isinstance(value, str),
    Kind.NAMES: _is_names,
    Kind.MAPPING: lambda value: isinstance(value, dict),
}
