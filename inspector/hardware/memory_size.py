"""Memory as people write it, `24GiB`: a number and a unit -> bytes. Every mistake becomes one line.

A program may also give an integer of bytes.
"""

from __future__ import annotations

import re
from decimal import Decimal

from inspector.checks import describe_value
from inspector.errors import UsageError, quoted
from inspector.records.hardware import Gpu, MemoryFigure
from inspector.units import format_bytes

__all__ = ["build_stated_gpu", "parse_margin", "parse_memory"]

_UNITS = {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BY_FOLDED_NAME = {name.lower(): (name, size) for name, size in _UNITS.items()}
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)")
_LARGEST_BYTES = 2**50


def parse_memory(text: str) -> int:
    """Read `24GiB`, `23.5 GiB`, `24GB` or `24576MiB` as whole bytes, a fraction of a byte cut off."""
    size = _parse_size(text, "gpu_memory")
    _check_size(size, f"`gpu_memory` {quoted(text, 40)}")
    return size


def parse_margin(size: str | int) -> int:
    """Read how much memory is to stay free, as text with a unit or in bytes: 0 or more."""
    if isinstance(size, str):
        size = 0 if size.strip() == "0" else _parse_size(size, "margin")
    if not 0 <= size <= _LARGEST_BYTES:
        raise UsageError(f"`margin` is {describe_value(size)}; give 0 to 1024TiB, as in 1GiB.")
    return size


def _parse_size(text: str, name: str) -> int:
    """Read a number and a unit as bytes."""
    match = _SIZE.fullmatch(text.strip())
    what = f"`{name}` {quoted(text, 40)}"
    if not match:
        raise UsageError(f"{what} is not a size; write a number and a unit, as in 24GiB.")
    number, unit = match.groups()
    if not unit:
        raise UsageError(f"{what} has no unit; write {number}GiB, {number}GB or {number}MiB.")
    if unit.lower() not in _BY_FOLDED_NAME:
        raise UsageError(f"{what}: {unit} is not a unit; use GiB (2^30 bytes), GB (10^9) or MiB (2^20).")
    return int(Decimal(number) * _BY_FOLDED_NAME[unit.lower()][1])


def _check_size(size: int, what: str) -> None:
    """Raise UsageError for a size of 0 bytes and for one above 1 PiB."""
    if not 0 < size <= _LARGEST_BYTES:
        raise UsageError(f"{what} is not the memory of a GPU; give more than 0 and at most 1024TiB, as in 24GiB.")


def build_stated_gpu(size: str | int) -> Gpu:
    """Return a GPU of which only the memory is known, as text with a unit or in bytes."""
    if isinstance(size, str):
        memory_bytes = parse_memory(size)
        match = _SIZE.fullmatch(size.strip())
        assert match is not None  # parse_memory has read it
        name = f"{match[1]} {_BY_FOLDED_NAME[match[2].lower()][0]}"
    else:
        _check_size(size, f"`gpu_memory` {describe_value(size)}")
        memory_bytes, name = size, format_bytes(size)
    return Gpu(
        name=name,
        family="stated",
        memory_bytes=memory_bytes,
        memory_figure=MemoryFigure.STATED,
        memory_source="the user",
    )
