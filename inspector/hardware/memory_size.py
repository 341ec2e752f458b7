"""Memory as people write it, `24GiB`: a number and a unit -> bytes. Every mistake becomes one line."""

from __future__ import annotations

import re
from decimal import Decimal

from inspector.errors import UsageError, quoted
from inspector.records.hardware import Gpu, MemoryFigure

__all__ = ["parse_memory", "stated_gpu"]

_UNITS = {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BY_FOLDED_NAME = {name.lower(): (name, size) for name, size in _UNITS.items()}
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)")
_LARGEST_BYTES = 2**50


def parse_memory(text: str) -> int:
    """Read `24GiB`, `23.5 GiB`, `24GB` or `24576MiB` as whole bytes, a fraction of a byte cut off."""
    match = _SIZE.fullmatch(text.strip())
    what = f"--gpu-memory {quoted(text, 40)}"
    if not match:
        raise UsageError(f"{what} is no size; write a number and a unit, as in 24GiB.")
    number, unit = match.groups()
    if not unit:
        raise UsageError(f"{what} has no unit; write {number}GiB, {number}GB or {number}MiB.")
    if unit.lower() not in _BY_FOLDED_NAME:
        raise UsageError(f"{what}: {unit} is no unit; use GiB (2^30 bytes), GB (10^9) or MiB (2^20).")
    size = int(Decimal(number) * _BY_FOLDED_NAME[unit.lower()][1])
    if not 0 < size <= _LARGEST_BYTES:
        raise UsageError(f"{what} is no memory of a GPU; give more than 0 and at most 1024TiB, as in 24GiB.")
    return size


def stated_gpu(text: str) -> Gpu:
    """Return a GPU of which only the memory is known."""
    size = parse_memory(text)
    match = _SIZE.fullmatch(text.strip())
    assert match is not None  # parse_memory has read it
    unit = _BY_FOLDED_NAME[match[2].lower()][0]
    return Gpu(
        name=f"{match[1]} {unit}",
        family="stated",
        memory_bytes=size,
        memory_figure=MemoryFigure.STATED,
        memory_source="--gpu-memory",
    )
