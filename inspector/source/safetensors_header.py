"""The header of a safetensors file and the index of a sharded checkpoint, from bytes that are not trusted.

A file starts with the length N of its header (8 bytes, little endian), then come N bytes of JSON and the data
(https://huggingface.co/docs/safetensors/index#format). What the format demands is checked here: offsets inside the file
and in order, no overlap, no gap, a length that fits dtype and shape. huggingface_hub's own reader checks none of it,
allows headers of 100 MB and reads whatever a server sends when it ignores the range, so it is not used.

Bounds: a header of MOST_HEADER_BYTES, MOST_TENSORS tensors, MOST_SHARDS files. Kimi-K2, the largest of the catalogue,
stores some 140,000 tensors (61 layers of 384 experts with three matrices and their scales). Everything else raises
MalformedError, one line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from inspector.dtypes import BY_SAFETENSORS_NAME
from inspector.errors import UnsupportedModelError, one_line, quoted
from inspector.records.checkpoint import StoredTensor
from inspector.source.bounded_json import parse_object
from inspector.units import format_bytes

__all__ = [
    "LENGTH_BYTES",
    "MOST_HEADER_BYTES",
    "MOST_SHARDS",
    "MOST_TENSORS",
    "MalformedError",
    "is_plain_name",
    "parse_header",
    "parse_index",
    "read_header_length",
]

LENGTH_BYTES = 8
MOST_HEADER_BYTES = 8 * 2**20
MOST_TENSORS = 200_000
MOST_SHARDS = 2_000
_MOST_DIMENSIONS = 32
_LONGEST_NAME = 1_000
_LARGEST = 2**63 - 1

_PLAIN_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]+(?:/[^/\\\x00-\x1f\x7f]+)*")


class MalformedError(UnsupportedModelError):
    """A header or an index breaks the format; the message is one line."""


def read_header_length(start: bytes, file_bytes: int | None, what: str) -> int:
    """Return the length of the header that the first 8 bytes of a file announce, within the file and the bound."""
    if len(start) < LENGTH_BYTES:
        raise _build_error(what, f"has {len(start)} bytes, less than the 8 that give the length of the header")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > MOST_HEADER_BYTES:
        raise _build_error(
            what, f"announces a header of {format_bytes(length)}, more than the {format_bytes(MOST_HEADER_BYTES)} read"
        )
    if length < 2 or (file_bytes is not None and LENGTH_BYTES + length > file_bytes):
        raise _build_error(what, f"announces a header of {length} bytes, which does not fit the file")
    return length


def parse_header(header: bytes, file_bytes: int | None, what: str) -> dict[str, StoredTensor]:
    """Return the tensors of a header; `file_bytes` is the size of the whole file, None where it is not known.

    Raises MalformedError unless the data is laid out as the format demands.
    """
    fields = parse_object(header, f"the header of {what}", error=MalformedError)
    fields.pop("__metadata__", None)
    if len(fields) > MOST_TENSORS:
        raise _build_error(what, f"lists {len(fields):,} tensors, more than the {MOST_TENSORS:,} that are read")
    tensors, spans = {}, []
    for name, entry in fields.items():
        tensor, begin = _parse_tensor(name, entry, what)
        tensors[name] = tensor
        spans.append((begin, begin + tensor.bytes, name))
    _check_layout(spans, len(header), file_bytes, what)
    return tensors


def parse_index(content: bytes, what: str) -> dict[str, str]:
    """Return the file of each tensor as the index of a sharded checkpoint gives it.

    Sizes in it are not read: published ones are wrong (DeepSeek-V3's is twice the bytes).
    """
    weight_map = parse_object(content, what, error=MalformedError).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise _build_error(what, "has no weight_map")
    if len(weight_map) > MOST_TENSORS:
        raise _build_error(what, f"lists {len(weight_map):,} tensors, more than the {MOST_TENSORS:,} that are read")
    files = {filename for filename in weight_map.values() if isinstance(filename, str)}
    for filename in weight_map.values():
        if not isinstance(filename, str) or not is_plain_name(filename):
            raise _build_error(
                what, f"names the file {quoted(filename, 80)}, which is not a path inside the repository"
            )
    if len(files) > MOST_SHARDS:
        raise _build_error(what, f"names {len(files):,} files, more than the {MOST_SHARDS:,} that are read")
    return {str(name): filename for name, filename in weight_map.items()}


def is_plain_name(name: str) -> bool:
    """Tell whether `name` is a relative path that stays inside its folder, without control characters."""
    return (
        len(name) <= _LONGEST_NAME
        and _PLAIN_NAME.fullmatch(name) is not None
        and not any(part in (".", "..") for part in name.split("/"))
        and not re.match(r"[A-Za-z]:", name)
    )


def _parse_tensor(name: str, entry: Any, what: str) -> tuple[StoredTensor, int]:
    """Return one entry of a header and where its data begins."""
    if len(name) > _LONGEST_NAME:
        raise _build_error(what, f"holds a name of {len(name):,} characters")
    if not isinstance(entry, dict):
        raise _build_error(what, f"describes {quoted(name, 80)} by something other than an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BY_SAFETENSORS_NAME:
        raise _build_error(what, f"gives {quoted(name, 80)} the dtype {quoted(dtype, 40)}, which is not known")
    if not _are_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        raise _build_error(what, f"gives {quoted(name, 80)} a shape that is not a list of sizes")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise _build_error(what, f"gives {quoted(name, 80)} offsets that are not two counts")
    begin, end = offsets
    tensor = StoredTensor(dtype=dtype, shape=tuple(shape), bytes=end - begin)
    bits = tensor.elements * BY_SAFETENSORS_NAME[dtype].bits  # sub-byte dtypes count elements in their shape, too
    if tensor.elements > _LARGEST or tensor.bytes < 0 or 8 * tensor.bytes != bits:
        raise _build_error(
            what, f"gives {quoted(name, 80)} {tensor.bytes} bytes, which its dtype and shape do not take"
        )
    return tensor, begin


def _are_counts(value: Any) -> TypeGuard[list[int]]:
    """Tell whether `value` is a list of integers from 0 to 2^63 - 1."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= _LARGEST for item in value)


def _check_layout(spans: list[tuple[int, int, str]], header_bytes: int, file_bytes: int | None, what: str) -> None:
    """Check that the data of the tensors follows one another without overlap or gap and ends with the file."""
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            fault = "overlaps the data before it" if begin < position else "leaves a gap before it"
            raise _build_error(what, f"puts {quoted(name, 80)} where it {fault}")
        position = end
    expected = LENGTH_BYTES + header_bytes + position
    if file_bytes is not None and expected != file_bytes:
        raise _build_error(what, f"describes a file of {expected:,} bytes, and it has {file_bytes:,}")


def _build_error(what: str, fault: str) -> MalformedError:
    return MalformedError(
        f"{one_line(what)} is not a valid safetensors checkpoint: it {fault}; look into the repository."
    )
