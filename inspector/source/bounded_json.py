"""JSON objects from files and texts that are not trusted: bounded in size, depth and integers, one line when wrong.

Accepted is what Python's `json` reads and transformers writes (`Infinity` included: Mamba-2 configurations hold it),
less what would hurt later: NaN, integers beyond 64 bit, nesting deeper than a configuration ever is, a byte-order mark.
Not covered: whether the fields mean anything.
"""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from inspector.errors import InspectorError, ModelUnavailableError, UnsupportedModelError, one_line, quoted
from inspector.units import format_bytes

__all__ = ["MOST_BYTES", "parse_object", "read_object"]

# Configurations are a few KiB; the largest known, with a label for each of 10^5 classes, are a few MiB.
MOST_BYTES = 16 * 2**20
# Real configurations nest less than 10 levels.
_DEEPEST = 100
_SMALLEST_INTEGER, _LARGEST_INTEGER = -(2**63), 2**64 - 1
_STRING = r'"(?:[^"\\]|\\.)*"'


class _UnwantedNumberError(Exception):
    """A number that JSON or Python would let pass; raised from within the parser."""

    def __init__(self, literal: str, why: str) -> None:
        super().__init__(why)
        self.literal = literal
        self.why = why


def read_object(
    path: str | Path,
    what: str | None = None,
    *,
    error: type[InspectorError] = UnsupportedModelError,
    most_bytes: int = MOST_BYTES,
) -> dict[str, Any]:
    """Return the JSON object in the file at `path`, which messages call `what`.

    Raises ModelUnavailableError when the file cannot be read and `error` when it holds something else.
    """
    what = quoted(path) if what is None else what
    try:
        facts = Path(path).stat()
        if not stat.S_ISREG(facts.st_mode):
            kind = "a directory" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
            raise ModelUnavailableError(f"{one_line(what)} is {kind}; name a JSON file.")
        _check_size(facts.st_size, what, error, most_bytes)
        with Path(path).open("rb") as file:
            content = file.read(most_bytes + 1)
    except (OSError, ValueError) as failure:  # ValueError: a NUL in the path
        reason = getattr(failure, "strerror", None) or failure
        raise ModelUnavailableError(
            f"{one_line(what)} cannot be read ({one_line(reason)}); check that it exists and who may read it."
        ) from failure
    return parse_object(content, what, error=error, most_bytes=most_bytes)


def parse_object(
    content: str | bytes,
    what: str,
    *,
    error: type[InspectorError] = UnsupportedModelError,
    most_bytes: int = MOST_BYTES,
) -> dict[str, Any]:
    """Return the JSON object in `content`, which messages call `what`; raises `error` for anything else."""
    what = one_line(what)
    _check_size(len(content), what, error, most_bytes)
    text = content if isinstance(content, str) else _decode(content, what, error)
    if text.startswith("\ufeff"):
        raise error(f"{what} starts with a byte-order mark; save it as UTF-8 without one.")
    if not text.strip():
        raise error(f"{what} is empty; write a JSON object.")
    try:
        value = json.loads(text, parse_constant=_parse_constant, parse_int=_parse_integer)
        _check_depth(value)
    except json.JSONDecodeError as failure:
        where = f"line {failure.lineno} column {failure.colno}"
        raise error(f"{what} is not valid JSON: {one_line(failure.msg)} at {where}; correct it.") from failure
    except _UnwantedNumberError as failure:
        raise error(f"{what} {failure.why} at {_find_position(text, failure.literal)}; correct it.") from failure
    except RecursionError as failure:
        raise error(f"{what} nests deeper than {_DEEPEST} levels, as no configuration does; correct it.") from failure
    if not isinstance(value, dict):
        raise error(f"{what} holds {_describe_kind(value)}; write a JSON object.")
    return value


def _check_size(size_bytes: int, what: str, error: type[InspectorError], most_bytes: int) -> None:
    if size_bytes > most_bytes:
        raise error(
            f"{one_line(what)} has {format_bytes(size_bytes)}, more than the {format_bytes(most_bytes)} "
            "that are read of a configuration; name another file."
        )


def _decode(content: bytes, what: str, error: type[InspectorError]) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise error(f"{what} is not UTF-8 text: byte {failure.start} does not fit; save it as UTF-8.") from failure


def _parse_constant(literal: str) -> float:
    if literal == "NaN":
        raise _UnwantedNumberError(literal, "holds NaN, which a configuration cannot have,")
    return float(literal)


def _parse_integer(literal: str) -> int:
    # Length first: int() of thousands of digits is slow, and Python refuses it with an error of its own.
    if len(literal) > 20 or not _SMALLEST_INTEGER <= int(literal) <= _LARGEST_INTEGER:
        raise _UnwantedNumberError(literal, f"holds the integer {one_line(literal, 30)}, which is beyond 64 bit,")
    return int(literal)


def _find_position(text: str, literal: str) -> str:
    """Return the line and column of the first `literal` outside strings."""
    matches = re.finditer(rf"{_STRING}|({re.escape(literal)})", text)
    start = next(match.start() for match in matches if match.group(1) is not None)
    return f"line {text.count(chr(10), 0, start) + 1} column {start - text.rfind(chr(10), 0, start)}"


def _check_depth(value: Any) -> None:
    """Raise RecursionError, as the parser itself does for much deeper texts, when `value` nests beyond the bound."""
    level = [value]
    for _ in range(_DEEPEST):
        containers = [item for item in level if isinstance(item, (dict, list))]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return
    if any(isinstance(item, (dict, list)) for item in level):
        raise RecursionError


def _describe_kind(value: Any) -> str:
    kinds = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
