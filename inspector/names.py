"""Module names as people write them: folded over repeated layers, and guessed from a typo.

`model.layers.0.mlp.up_proj` … `model.layers.63.mlp.up_proj` fold to `model.layers.0-63.mlp.up_proj`. Runs with gaps are
listed (`0-2,4-6`), runs with an equal step are written start-stop:step (`3-47:4`), and lists of more than four runs are
cut in the middle.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Sequence

__all__ = ["fold_indices", "fold_names", "group_names", "join_names", "near_names"]

_MOST_RUNS = 4


def fold_names(names: Iterable[str]) -> list[str]:
    """Fold dotted names that differ only in their numbers, in order of first appearance."""
    return [folded for folded, _ in group_names(names)]


def group_names(names: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Return (folded name, what it stands for) in order of first appearance; names may look folded themselves."""
    groups: dict[tuple[str | None, ...], list[str]] = {}
    for name in names:
        pattern = tuple(None if part.isdecimal() else part for part in name.split("."))
        groups.setdefault(pattern, []).append(name)
    return [(_write(pattern, members), members) for pattern, members in groups.items()]


def fold_indices(indices: Sequence[int]) -> str:
    """Write sorted distinct indices as ranges."""
    steps = {after - before for before, after in itertools.pairwise(indices)}
    if len(indices) > 2 and len(steps) == 1 and steps != {1}:
        return f"{indices[0]}-{indices[-1]}:{steps.pop()}"
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    written = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    if len(written) > _MOST_RUNS:
        written = [*written[: _MOST_RUNS - 1], "…", written[-1]]
    return ",".join(written)


def join_names(names: Sequence[str], most: int = 6) -> str:
    """Join names, saying how many were left out."""
    remainder = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + remainder


def near_names(name: str, candidates: Iterable[str]) -> list[str]:
    """Return up to three names that were probably meant, best first."""
    return difflib.get_close_matches(name, sorted(set(candidates)), n=3, cutoff=0.6)


def _write(pattern: tuple[str | None, ...], members: list[str]) -> str:
    """Put the folded numbers of each numbered position back into the pattern."""
    if len(members) == 1:
        return members[0]
    places = zip(*(name.split(".") for name in members), strict=True)
    return ".".join(
        fold_indices(sorted({int(number) for number in numbers})) if part is None else part
        for part, numbers in zip(pattern, places, strict=True)
    )
