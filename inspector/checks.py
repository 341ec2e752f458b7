"""Checks of what a user hands over, made when a record of it is made: every mistake is a UsageError of one line.

Each function takes the name of the setting as Python knows it, which stands in backticks in the message, and returns
the value in the type that the record keeps. Closed choices are enums on `Choice`.
"""

from __future__ import annotations

import difflib
import enum
import math
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from inspector.errors import UsageError, quoted

__all__ = [
    "Choice",
    "check_choice",
    "check_count",
    "check_flag",
    "check_keys",
    "check_model",
    "check_names",
    "check_number",
    "check_text",
    "describe_value",
    "find_nearest_names",
    "to_plain_text",
]

# What a dimension of a tensor can have; beyond it a number is a slip.
_LARGEST_COUNT = 2**31 - 1
# Larger integers are named, not printed: Python refuses to write out those of some thousand digits.
_LARGEST_SHOWN = 2**64


class Choice(str, enum.Enum):
    """A closed choice: each member is its value, and prints, compares and hashes as that text does."""

    def __str__(self) -> str:
        """Return the value."""
        return str(self.value)

    @classmethod
    def aliases(cls) -> Mapping[str, str]:
        """Return what else the members are called, each with its value."""
        return {}

    @classmethod
    def unclear_names(cls) -> Mapping[str, str]:
        """Return names that are no member's, or may be several', each with what to say of it."""
        return {}

    @classmethod
    def _missing_(cls, value: object) -> Choice | None:
        """Return the member that has this other name, which `kind(value)` asks for."""
        found = cls.aliases().get(value) if isinstance(value, str) else None
        return None if found is None else cls(found)

    @classmethod
    def values(cls) -> tuple[str, ...]:
        """Return the values in the order of definition, as plain text."""
        return tuple(str(member) for member in cls)


Kind = TypeVar("Kind", bound=Choice)


def check_choice(name: str, value: Any, kind: type[Kind]) -> Kind:
    """Return the member of `kind` that `value` is or names."""
    if type(value) is kind:  # as in a copy of a record
        return value
    known = f"use one of {', '.join(kind.values())}"
    if not isinstance(value, str):
        raise UsageError(f"`{name}` is {describe_value(value)}; {known}.")
    try:
        return kind(value)
    except ValueError as error:
        if value in kind.unclear_names():
            raise UsageError(f"`{name}`: {kind.unclear_names()[value]}.") from error
        near = find_nearest_names(to_plain_text(value), kind.values())
        meant = f"did you mean {near[0]}? If not, " if near else ""
        raise UsageError(f"`{name}` {quoted(to_plain_text(value), 60)} is not known; {meant}{known}.") from error


def check_count(name: str, value: Any, *, least: int = 1) -> int:
    """Return an integer of at least `least` and at most 2^31 - 1; numpy's integers are taken, booleans are not."""
    wanted = f"give an integer of at least {least}"
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise UsageError(f"`{name}` is {describe_value(value)}; {wanted}.")
    try:
        count = operator.index(value)
    except Exception as error:  # a tensor of several elements has __index__ too
        raise UsageError(f"`{name}` is {describe_value(value)}; {wanted}.") from error
    if not least <= count <= _LARGEST_COUNT:
        wanted = wanted if count < least else f"give an integer of at most {_LARGEST_COUNT}"
        raise UsageError(f"`{name}` is {describe_value(count)}; {wanted}.")
    return count


def check_number(name: str, value: Any, *, least: float = 0.0) -> float:
    """Return a finite number of at least `least`, unchanged."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        if is_number and math.isfinite(value) and value >= least:
            return value if isinstance(value, float) else int(value)
    except OverflowError:  # an integer beyond all floats
        pass
    raise UsageError(f"`{name}` is {describe_value(value)}; give a finite number of at least {least:g}.")


def check_flag(name: str, value: Any) -> bool:
    """Return a boolean; numbers and text are refused."""
    if isinstance(value, bool):
        return value
    raise UsageError(f"`{name}` is {describe_value(value)}; give True or False.")


def check_text(name: str, value: Any, example: str) -> str:
    """Return a text; `example` says what one looks like."""
    if isinstance(value, str):
        return value
    raise UsageError(f"`{name}` is {describe_value(value)}; give text, as in {example}.")


def check_names(name: str, value: Any, example: str) -> tuple[str, ...]:
    """Return a collection of texts as a tuple; one text alone would be taken for its letters."""
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise UsageError(f"`{name}` is {describe_value(value)}; give a list of names, as in [{example}].")
    items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
    return tuple(check_text(name, item, example) for item in items)


def check_keys(what: str, given: Mapping[Any, Any], known: Sequence[str]) -> None:
    """Refuse a key that is none of the known ones."""
    for key in given:
        if key not in known:
            near = find_nearest_names(key, known) if isinstance(key, str) else []
            meant = f"did you mean {near[0]}? If not, " if near else ""
            raise UsageError(f"`{what}` has no setting {quoted(key, 60)}; {meant}use {', '.join(known)}.")


def check_model(value: Any) -> Any:
    """Return a path as text and any other model as it is; what objects can be inspected is known where one is built."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, (bytes, bytearray)):
        raise UsageError(f"`model` is {describe_value(value)}; give a Hub id or a path as text.")
    return value


def describe_value(value: Any) -> str:
    """Return what a value is, in a few words and on one line: text and numbers as they are, other things by type."""
    kind = type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, str):
        return f"{quoted(to_plain_text(value), 60)} ({kind})"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < _LARGEST_SHOWN):
        return f"{value} ({kind})"
    return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else f"of type {quoted(kind, 60)}"


def to_plain_text(value: str) -> str:
    """Return a text without what its type makes of it: transformers' enums are text that prints as a member."""
    return str.__str__(value)


def find_nearest_names(name: str, known: Sequence[str], count: int = 1) -> list[str]:
    """Return the known names that one was probably meant for: letter case, hyphens and underscores do not count.

    A name that is the start of several stands for the first of them, as `adamw` does for the usual one.
    """
    folded = {entry.lower().replace("-", "_"): entry for entry in known}
    meant = name.lower().replace("-", "_")
    if meant in folded:
        return [folded[meant]]
    longer = [entry for key, entry in folded.items() if meant and key.startswith(f"{meant}_")]
    return longer[:count] or [folded[key] for key in difflib.get_close_matches(meant, folded, n=count)]
