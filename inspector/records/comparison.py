"""The values of a comparison: two or more reports side by side, cut down to what differs between them.

Part of the data dictionary, with the same rules as `inspector.records`: field names are JSON keys. A `path` is where a
value stands in a report of schema `inspector/1`, its keys joined by dots; members of a list go by their name. Values
are by the letter of the recipe, A for the first; a recipe that does not have a value is not among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Compared", "Comparison", "Figure", "Setting", "SharedNotice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One of the recipes: the letter it goes by, and what the user called it.

    `fit` is its verdict by GPU, as the report has it: yes, tight, no or not known. `breakdown` is what lives at the
    peak by category, `usable_bytes` what the allocator has on each GPU: what pictures are drawn of, and in no JSON.
    """

    letter: str
    name: str
    fit: Mapping[str, str] = field(default_factory=dict)
    breakdown: Mapping[str, int] = field(default_factory=dict)
    usable_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting or another fact in words that is not the same in all recipes."""

    path: str
    values: Mapping[str, str | bool | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A count or a number of bytes that is not the same in all recipes; `differences` are to the first recipe."""

    path: str
    values: Mapping[str, int]
    differences: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedNotice:
    """A warning of some of the recipes."""

    recipes: Sequence[str]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two or more recipes: what differs, in the order of a report, and the paths of the figures that are equal."""

    versions: Mapping[str, str]
    recipes: Sequence[Compared]
    settings: Sequence[Setting]
    figures: Sequence[Figure]
    equal: Sequence[str]
    warnings: Sequence[SharedNotice] = ()
