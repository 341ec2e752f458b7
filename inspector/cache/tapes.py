"""A tape as columns: one array for each field of its events, texts by their number in a list.

Behind a line of JSON that says how many events there are, which width each column has and what its texts are come the
columns, of whole numbers in little-endian bytes. Blocks are differences to the block before: most are the next one or
one of the last, which compresses well.
"""

from __future__ import annotations

import array
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from inspector.cache.codec import NotKeptError
from inspector.records.tape import Category, Event, EventKind, Phase

__all__ = ["pack_tape", "unpack_tape"]

_CODES = {"b": 1, "h": 2, "i": 4, "q": 8}
_ENUMS: tuple[tuple[str, Any], ...] = (("kind", EventKind), ("phase", Phase), ("category", Category))


def pack_tape(tape: Sequence[Event]) -> bytes:
    """Return the bytes of a tape."""
    blocks = [event.block for event in tape]
    differences = [block - before for block, before in zip(blocks, [0, *blocks[:-1]], strict=True)] if blocks else []
    columns: dict[str, list[int]] = {"block": differences}
    for name in ("bytes", "step", "stream"):
        columns[name] = [getattr(event, name) for event in tape]
    texts: dict[str, list[str]] = {}
    for name in ("kind", "phase", "category", "module", "op"):
        values = [str(getattr(value, "value", value)) for value in (getattr(event, name) for event in tape)]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(values))}
        texts[name] = list(numbers)
        columns[name] = [numbers[text] for text in values]
    packed = {name: _pack(values) for name, values in columns.items()}
    head = {"events": len(tape), "codes": {name: column.typecode for name, column in packed.items()}, "texts": texts}
    return b"".join((json.dumps(head).encode(), b"\n", *(column.tobytes() for column in packed.values())))


def unpack_tape(data: bytes) -> list[Event]:
    """Return the tape that `pack_tape` made bytes of; raise NotKeptError for other bytes."""
    line, _, rest = data.partition(b"\n")
    try:
        head = json.loads(line)
        columns: dict[str, list[Any]] = {}
        start = 0
        for name, code in head["codes"].items():
            size = head["events"] * _CODES[code]
            columns[name] = _unpack(code, rest[start : start + size], head["events"])
            start += size
        for name, texts in head["texts"].items():
            columns[name] = [texts[number] for number in columns[name]]
        for name, kind in _ENUMS:
            members = {member.value: member for member in kind}
            columns[name] = [members[text] for text in columns[name]]
        blocks, block = [], 0
        for difference in columns["block"]:
            block += difference
            blocks.append(block)
        columns["block"] = blocks
        return list(map(Event, *(columns[name] for name in Event._fields)))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise NotKeptError(str(error)) from error


def _pack(values: Iterable[int]) -> array.array[int]:
    """Return numbers as an array of the narrowest kind that holds them."""
    numbers = list(values)
    least, most = min(numbers, default=0), max(numbers, default=0)
    code = next(code for code, size in _CODES.items() if -(2 ** (8 * size - 1)) <= least and most < 2 ** (8 * size - 1))
    return _swap(array.array(code, numbers))


def _unpack(code: str, data: bytes, count: int) -> list[int]:
    """Return the numbers of a column, exactly so many."""
    column = array.array(code)
    column.frombytes(data)
    if len(column) != count:
        raise NotKeptError("a column is cut off")
    return _swap(column).tolist()


def _swap(column: array.array[int]) -> array.array[int]:
    """Return an array in the order of bytes of a file."""
    if sys.byteorder == "big":
        column.byteswap()
    return column
