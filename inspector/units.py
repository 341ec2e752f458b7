"""The one place where integers become text for people: bytes, counts and shares.

Binary units throughout: 1 KiB = 2^10, 1 MiB = 2^20, 1 GiB = 2^30, 1 TiB = 2^40 bytes.
"""

from __future__ import annotations

__all__ = ["format_bytes", "format_count", "format_share", "format_short_count"]

_BINARY_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DECIMAL_UNITS = ("K", "M", "B", "T", "Q")


def format_bytes(size_bytes: int) -> str:
    """Return bytes in the largest binary unit that keeps the figure at 1 or more, with two decimals."""
    sign, size = ("-", -size_bytes) if size_bytes < 0 else ("", size_bytes)
    if size < 1024:
        return f"{sign}{size} B"
    exponent = 0
    # A figure that two decimals would show as 1024.00 belongs to the next unit.
    while exponent + 1 < len(_BINARY_UNITS) and round(size / 1024 ** (exponent + 1), 2) >= 1024:
        exponent += 1
    return f"{sign}{size / 1024 ** (exponent + 1):.2f} {_BINARY_UNITS[exponent]}"


def format_count(count: int) -> str:
    """Return an integer with thousands separators."""
    return f"{count:,}"


def format_short_count(count: int) -> str:
    """Return a count in thousands, millions, billions or trillions with two decimals (32.76 B)."""
    if abs(count) < 1000:
        return str(count)
    exponent = 0
    while exponent + 1 < len(_DECIMAL_UNITS) and round(abs(count) / 1000 ** (exponent + 1), 2) >= 1000:
        exponent += 1
    return f"{count / 1000 ** (exponent + 1):.2f} {_DECIMAL_UNITS[exponent]}"


def format_share(part: int, whole: int) -> str:
    """Return `part` of `whole` in percent; small shares keep two significant digits, and an empty whole gives a dash."""
    if whole == 0:
        return "–"
    percent = 100 * part / whole
    if percent == 0 or abs(percent) >= 1:
        return f"{percent:.1f} %"
    return f"{percent:.2g} %" if abs(percent) >= 0.0001 else "<0.0001 %"
