"""Lists of module names, shortened for people: layers folded, siblings on one line, an end to very long lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from inspector.errors import one_line
from inspector.units import format_count

__all__ = ["folded_layers", "grouped_names", "with_remainder"]

_LONGEST_LIST = 40


def grouped_names(names: Iterable[str]) -> list[str]:
    """Return dotted names with siblings joined: `mlp.{gate_proj, up_proj}`, in the order of their first member."""
    siblings: dict[str, list[str]] = {}
    for name in names:
        parent, _, own = one_line(name).rpartition(".")
        siblings.setdefault(parent, []).append(own)
    grouped = []
    for parent, own_names in siblings.items():
        joined = ", ".join(own_names)
        if parent:
            joined = f"{parent}.{{{joined}}}" if len(own_names) > 1 else f"{parent}.{joined}"
        grouped.append(joined)
    return grouped


def folded_layers(names: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Return folded names and what each stands for: `model.layers.0-63.mlp`, or `*` where the numbers have gaps."""
    groups: dict[tuple[str | None, ...], list[str]] = {}
    for name in names:
        pattern = tuple(None if part.isdecimal() else part for part in name.split("."))
        groups.setdefault(pattern, []).append(name)
    return [(_folded(members), members) for members in groups.values()]


def _folded(names: Sequence[str]) -> str:
    """Return one name for names that differ only in their numbers."""
    return ".".join(_range(set(parts)) for parts in zip(*(name.split(".") for name in names), strict=True))


def _range(parts: set[str]) -> str:
    """Return what all names have in one place, or the range of their numbers there."""
    if len(parts) == 1:
        return next(iter(parts))
    numbers = sorted({int(part) for part in parts})
    has_no_gap = len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1
    return f"{numbers[0]}-{numbers[-1]}" if has_no_gap else "*"


def with_remainder(names: Iterable[str], longest: int = _LONGEST_LIST) -> list[str]:
    """Return the names, or the first of them and how many more there are."""
    listed = list(names)
    if len(listed) <= longest:
        return listed
    return [*listed[: longest - 1], f"and {format_count(len(listed) - longest + 1)} more (JSON lists them all)"]
