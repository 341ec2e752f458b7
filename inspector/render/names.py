"""Lists of module names, shortened for people, and values beside their label: what several sections have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from inspector.errors import one_line
from inspector.render.document import Row, row
from inspector.units import format_bytes, format_count

__all__ = ["fold_names", "format_exact_bytes", "label_values", "shorten_list"]

_LONGEST_LIST = 40


def fold_names(names: Iterable[str]) -> list[str]:
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


def shorten_list(names: Iterable[str], longest: int = _LONGEST_LIST) -> list[str]:
    """Return the names, or the first of them and how many more there are."""
    listed = list(names)
    if len(listed) <= longest:
        return listed
    return [*listed[: longest - 1], f"and {format_count(len(listed) - longest + 1)} more (JSON lists them all)"]


def label_values(label: str, values: Sequence[str]) -> list[Row]:
    """Return one row for each value, with the label before the first."""
    return [row((label if index == 0 else "", value)) for index, value in enumerate(values)]


def format_exact_bytes(size_bytes: int) -> str:
    """Return bytes exactly and, where that differs, for people."""
    exact = f"{format_count(size_bytes)} bytes"
    return exact if abs(size_bytes) < 1024 else f"{exact} ({format_bytes(size_bytes)})"
