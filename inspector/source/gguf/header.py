"""The header of a GGUF file, from bytes that are not trusted.

A file starts with the magic `GGUF`, a version, the number of tensors and of metadata values; then come the values, the
table of tensors and, aligned, their data (ggml/src/gguf.cpp; docs/gguf.md of ggml). What that reader demands is checked
here: known types, data in the order of the table without overlap or gap, whole blocks. In a header of some MB most is
the vocabulary, of which only the length is kept. Everything else raises MalformedError, one line.

Bounds: MOST_HEADER_BYTES of header, 65,536 metadata values, the tensors of a safetensors checkpoint. The vocabulary of
Gemma (262,144 texts, scores and types) and its merges take some 15 MB.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from inspector.errors import one_line, quoted
from inspector.records.engines.gguf import GgufTensor
from inspector.source.gguf.types import GGML_TYPES
from inspector.source.safetensors_header import MOST_TENSORS, MalformedError
from inspector.units import format_bytes

__all__ = ["MOST_HEADER_BYTES", "Header", "parse_header"]

MOST_HEADER_BYTES = 64 * 2**20
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_VALUES = 65_536
_LONGEST_KEY = 65_535  # ggml's own bound
_LONGEST_NAME = 63  # GGML_MAX_NAME, with the zero at its end
_LONGEST_TEXT = 2**20
_MOST_DIMENSIONS = 4  # GGML_MAX_DIMS
_LARGEST = 2**63 - 1
# Per-layer values are kept; longer arrays are those of the vocabulary.
_LONGEST_KEPT_ARRAY = 4096
_MOST_KEPT = 2**18
# Of vocabularies and their merges, over a whole header: going through them takes about a second.
_MOST_TEXTS = 2**21
_DEFAULT_ALIGNMENT = 32
_MOST_ALIGNMENT = 2**20
_FIRST_BYTES = 2**18
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_TEXT, _ARRAY = 8, 9

Read = Callable[[int, int], bytes]


class Header:
    """The metadata and the tensors of one file; `data_bytes` is the size of their data, `bytes` that of the header."""

    def __init__(self, metadata: dict[str, Any], tensors: tuple[GgufTensor, ...], start: int, data_bytes: int) -> None:
        self.metadata, self.tensors = metadata, tensors
        self.bytes, self.data_bytes = start, data_bytes


def parse_header(read: Read, file_bytes: int | None, what: str) -> Header:
    """Return the header of a file; `read(start, length)` brings its bytes, fewer at its end.

    Raises MalformedError unless it is laid out as the format demands and the file is long enough for it.
    """
    cursor = _Cursor(read, what)
    tensors_count = _read_counts(cursor)
    metadata = _read_metadata(cursor)
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.error(f"has the alignment {one_line(alignment, 40)}, which is no power of two")
    tensors, size = _read_tensors(cursor, tensors_count, alignment)
    start = _pad(cursor.position, alignment)
    if file_bytes is not None and tensors and start + size > file_bytes:
        raise cursor.error(f"describes a file of {start + size:,} bytes, and it has {file_bytes:,}: it is cut off")
    return Header(metadata, tensors, start, size)


class _Cursor:
    """Goes through the bytes of a header, which it asks for in growing parts."""

    def __init__(self, read: Read, what: str) -> None:
        self._read, self._what = read, what
        self._content = bytearray()
        self._next = _FIRST_BYTES
        self.position = 0
        self.values = 0
        self.kept, self.texts = _MOST_KEPT, _MOST_TEXTS

    def take(self, length: int) -> bytes:
        """Return so many bytes and go behind them."""
        start = self.position
        self.skip(length)
        return bytes(self._content[start : self.position])

    def skip(self, length: int) -> None:
        """Go behind so many bytes, which have to be there."""
        end = self.position + length
        if end > MOST_HEADER_BYTES:
            raise self.error(f"has a header of more than the {format_bytes(MOST_HEADER_BYTES)} that are read")
        while len(self._content) < end:
            wanted = min(max(self._next, end - len(self._content)), MOST_HEADER_BYTES - len(self._content))
            part = self._read(len(self._content), wanted)
            if not part:
                raise self.error(f"ends after {len(self._content):,} bytes, inside its header")
            self._content += part
            self._next = min(2 * self._next, 2**23)
        self.position = end

    def number(self, layout: str) -> Any:
        """Return one number."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def text(self, longest: int, kind: str) -> str:
        """Return one text; the bytes that are no UTF-8 are replaced."""
        length = self.number("<Q")
        if length > longest:
            raise self.error(f"holds a {kind} of {length:,} bytes")
        return self.take(length).decode("utf-8", "replace")

    def error(self, fault: str) -> MalformedError:
        """Return the error of a fault."""
        return MalformedError(f"{one_line(self._what)} is not a valid GGUF file: it {fault}; get it again.")


def _read_counts(cursor: _Cursor) -> int:
    """Read what every file starts with; return the number of tensors and leave that of the values in the cursor."""
    magic = cursor.take(4)
    if magic != _MAGIC:
        raise cursor.error(f"starts with {magic!r} in the place of {_MAGIC!r}")
    version = cursor.number("<I")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS
        order = ", of the other byte order" if swapped else ""
        raise cursor.error(f"has the version {version}{order}, and 2 and 3 are read")
    tensors, values = cursor.number("<Q"), cursor.number("<Q")
    if tensors > MOST_TENSORS:
        raise cursor.error(f"announces {tensors:,} tensors, more than the {MOST_TENSORS:,} that are read")
    if values > _MOST_VALUES:
        raise cursor.error(f"announces {values:,} metadata values, more than the {_MOST_VALUES:,} that are read")
    cursor.values = values
    return int(tensors)


def _read_metadata(cursor: _Cursor) -> dict[str, Any]:
    """Return the metadata."""
    found: dict[str, Any] = {}
    for _ in range(cursor.values):
        key = cursor.text(_LONGEST_KEY, "key")
        if not key or not key.isprintable():
            raise cursor.error(f"holds the key {quoted(key, 60)}, which no text is")
        if key in found:
            raise cursor.error(f"holds the key {quoted(key, 60)} twice")
        found[key] = _read_value(cursor, cursor.number("<I"), key)
    return found


def _read_value(cursor: _Cursor, kind: int, key: str) -> Any:
    """Return one value; of an array that is long or of texts, its length."""
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _TEXT:
        return cursor.text(MOST_HEADER_BYTES, "text")[:_LONGEST_TEXT]
    if kind != _ARRAY:
        raise cursor.error(f"gives {quoted(key, 60)} the type {kind}, which is not known")
    inner, length = cursor.number("<I"), cursor.number("<Q")
    if inner in _SCALARS:
        layout = _SCALARS[inner]
        size = struct.calcsize(layout)
        if length > MOST_HEADER_BYTES // size:
            raise cursor.error(f"gives {quoted(key, 60)} {length:,} values")
        if length <= min(_LONGEST_KEPT_ARRAY, cursor.kept):
            cursor.kept -= length
            content = cursor.take(length * size)
            return [value for (value,) in struct.iter_unpack(layout, content)]
        cursor.skip(length * size)
        return length
    if inner != _TEXT:
        raise cursor.error(f"gives {quoted(key, 60)} an array of the type {inner}, which is not read")
    if length > cursor.texts:
        raise cursor.error(f"gives {quoted(key, 60)} {length:,} texts, and {_MOST_TEXTS:,} are read in all")
    cursor.texts -= length
    for _ in range(length):
        cursor.skip(cursor.number("<Q"))
    return length


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> tuple[tuple[GgufTensor, ...], int]:
    """Return the table of tensors and the size of their data."""
    found: dict[str, GgufTensor] = {}
    end = data = 0
    for _ in range(count):
        name = cursor.text(_LONGEST_NAME, "tensor's name")
        if not name or not name.isprintable():
            raise cursor.error(f"names a tensor {quoted(name, 60)}, which no name is")
        if name in found:
            raise cursor.error(f"holds the tensor {quoted(name, 60)} twice")
        found[name] = tensor = _read_tensor(cursor, name)
        offset = cursor.number("<Q")
        if offset != end:
            raise cursor.error(f"puts {quoted(name, 60)} at {offset:,} of its data, and the one before ends at {end:,}")
        data = offset + tensor.bytes
        end = _pad(data, alignment)
    return tuple(found.values()), data


def _read_tensor(cursor: _Cursor, name: str) -> GgufTensor:
    """Return one entry of the table, up to its offset."""
    dimensions = cursor.number("<I")
    if dimensions > _MOST_DIMENSIONS:
        raise cursor.error(f"gives {quoted(name, 60)} {dimensions:,} dimensions")
    shape = tuple(cursor.number("<Q") for _ in range(dimensions))
    number = cursor.number("<I")
    kind = GGML_TYPES.get(number)
    if kind is None:
        raise cursor.error(f"gives {quoted(name, 60)} the type {number}, which is not known")
    if math.prod(shape) > _LARGEST or any(size > _LARGEST for size in shape):
        raise cursor.error(f"gives {quoted(name, 60)} more elements than 2^63")
    if shape and shape[0] % kind.block_elements:
        raise cursor.error(f"gives {quoted(name, 60)} rows of {shape[0]:,} elements, no whole blocks of {kind.name}")
    size = math.prod(shape) // kind.block_elements * kind.block_bytes
    return GgufTensor(name=name, type=kind.name, shape=shape, bytes=size)


def _pad(size: int, alignment: int) -> int:
    """Return the next multiple of an alignment."""
    return -(-size // alignment) * alignment
