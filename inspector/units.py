"""The one place where integers become text for people: bytes, counts and shares.

Binary units throughout: 1 KiB = 2^10, 1 MiB = 2^20, 1 GiB = 2^30, 1 TiB = 2^40 bytes. Rounding is done on integers,
half up, so that no size is too large and a larger one never reads as a smaller one.
"""

from __future__ import annotations

__all__ = ["format_bytes", "format_count", "format_share", "format_short_count"]

_BINARY_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DECIMAL_UNITS = ("K", "M", "B", "T", "Q")


def format_bytes(size_bytes: int, *, signed: bool = False) -> str:
    """Return bytes in the largest binary unit that keeps the figure at 1 or more, with two decimals."""
    size = abs(size_bytes)
    figure = f"{size} B" if size < 1024 else _scaled(size, 1024, _BINARY_UNITS)
    return _sign(size_bytes, signed) + figure


def format_count(count: int, *, signed: bool = False) -> str:
    """Return an integer with thousands separators; `signed` gives a positive one a plus sign."""
    return f"{_sign(count, signed)}{abs(count):,}"


def format_short_count(count: int) -> str:
    """Return a count in thousands, millions, billions, trillions or quadrillions with two decimals (32.76 B)."""
    size = abs(count)
    return _sign(count) + (str(size) if size < 1000 else _scaled(size, 1000, _DECIMAL_UNITS))


def format_share(part: int, whole: int) -> str:
    """Return `part` of `whole` in percent; small ones keep two significant digits, an empty whole is a dash."""
    if whole == 0:
        return "–"
    percent = 100 * part / whole
    size = abs(percent)
    if size == 0 or size >= 0.995:
        # Nearly all is not all.
        return ">99.9 %" if part < whole and percent >= 99.95 else f"{percent:.1f} %"
    return f"{percent:.2g} %" if size >= 0.0001 else f"{'<' if percent > 0 else '>-'}0.0001 %"


def _scaled(size: int, base: int, units: tuple[str, ...]) -> str:
    """Return `size` in the largest unit that it fills, with two decimals."""
    exponent = 1
    # A figure that two decimals would show as 1024.00 (1000.00) belongs to the next unit.
    while exponent < len(units) and _hundredths(size, base**exponent) >= 100 * base:
        exponent += 1
    whole, rest = divmod(_hundredths(size, base**exponent), 100)
    return f"{whole}.{rest:02d} {units[exponent - 1]}"


def _hundredths(size: int, unit: int) -> int:
    """Return how many hundredths of `unit` make `size`, rounded half up."""
    return (200 * size + unit) // (2 * unit)


def _sign(number: int, signed: bool = False) -> str:
    """Return the sign to print in front of a number."""
    return "-" if number < 0 else "+" if signed and number > 0 else ""
