"""The columns of a tape as bytes.

Behind a line of JSON that says how many events there are, which width each column has and what its texts are come the
columns, of whole numbers in little-endian bytes. Blocks are differences to the block before: most are the next one or
one of the last, which compresses well.
"""

from __future__ import annotations

import itertools
import json
import operator
import sys
from array import array
from collections.abc import Sequence
from typing import Any

from inspector.cache.codec import NotKeptError
from inspector.records.columns import CATEGORIES, KINDS, PHASES, Columns
from inspector.records.tape import Event

__all__ = ["pack_tape", "unpack_tape"]

_CODES = {"b": 1, "h": 2, "i": 4, "q": 8}
# The members of choices, and the columns that are places among them or among texts.
_MEMBERS = {
    name: [str(member.value) for member in members]
    for name, members in (("kind", KINDS), ("phase", PHASES), ("category", CATEGORIES))
}
_TEXTS = {"module": "modules", "op": "ops"}


def pack_tape(tape: Sequence[Event]) -> bytes:
    """Return the bytes of a tape."""
    columns = tape if isinstance(tape, Columns) else Columns.from_events(tape)
    packed = {name: _pack(getattr(columns, name)) for name in Event._fields if name != "block"}
    packed["block"] = _pack(array("q", map(operator.sub, columns.block, itertools.chain((0,), columns.block))))
    texts = _MEMBERS | {name: list(getattr(columns, of_name)) for name, of_name in _TEXTS.items()}
    head = {"events": len(columns), "codes": {name: column.typecode for name, column in packed.items()}, "texts": texts}
    return b"".join((json.dumps(head).encode(), b"\n", *(column.tobytes() for column in packed.values())))


def unpack_tape(data: bytes) -> Columns:
    """Return the tape that `pack_tape` made bytes of; raise NotKeptError for other bytes."""
    line, _, rest = data.partition(b"\n")
    try:
        head = json.loads(line)
        columns: dict[str, array[int]] = {}
        start = 0
        for name, code in head["codes"].items():
            size = head["events"] * _CODES[code]
            columns[name] = _unpack(code, rest[start : start + size], head["events"])
            start += size
        texts = head["texts"]
        for name, members in _MEMBERS.items():
            if texts[name] != members:
                raise NotKeptError("of other choices")
        for name, known in texts.items():
            if columns[name] and not 0 <= min(columns[name]) <= max(columns[name]) < len(known):
                raise NotKeptError("a place of no text")
        columns["block"] = array("q", itertools.accumulate(columns["block"]))
        names: dict[str, Any] = {of_name: tuple(map(str, texts[name])) for name, of_name in _TEXTS.items()}
        return Columns(**{**columns, **names})
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise NotKeptError(str(error)) from error


def _pack(numbers: array[int]) -> array[int]:
    """Return numbers as an array of the narrowest kind that holds them."""
    least, most = min(numbers, default=0), max(numbers, default=0)
    code = next(code for code, size in _CODES.items() if -(2 ** (8 * size - 1)) <= least and most < 2 ** (8 * size - 1))
    return _swap(array(code, numbers))


def _unpack(code: str, data: bytes, count: int) -> array[int]:
    """Return the numbers of a column, exactly so many."""
    column: array[int] = array(code)
    column.frombytes(data)
    if len(column) != count:
        raise NotKeptError("a column is cut off")
    return _swap(column)


def _swap(column: array[int]) -> array[int]:
    """Return an array in the order of bytes of a file."""
    if sys.byteorder == "big":
        column.byteswap()
    return column
