"""What is said of a deep model, from what is said of two shallow ones that differ by one period of layers.

A record of the whole model is put together of the records of both, field by field:

- what is equal in both is what it is;
- an integer grows by as much with each further period;
- names of layers, folded or not, have the layers that a period adds: those of the shallower one with one period more
  are those of the deeper one, or nothing is said;
- bytes by dtype are in the order of their size;
- a notice is worded of its facts (`worded`).

Everything else that differs (a message with a number in it, another number of rows) says nothing of the whole model,
and `NotPeriodicError` is raised: the whole model is then looked at. What grows otherwise has to be worked out apart
(`adapter_file`). tests/model/depth holds extrapolated records against those of whole models.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from inspector.model.depth.worded import Worded, word
from inspector.model.truncate import Cut
from inspector.names import fold_indices

__all__ = ["NotPeriodicError", "Periods", "extrapolate_record"]

_Record = TypeVar("_Record")
# One run of numbers in a level of a folded name, with its step. Lists that were cut in the middle say too little.
_RUN = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")
_WRAPPER = "base_model.model."


class NotPeriodicError(Exception):
    """Two shallow models do not say what the whole one does; the message says where they fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """Which layers of a shallow model stand for more: those of the last of its periods, which end before `end`.

    `path` is that of their list, `period` how many they are.
    """

    path: str
    end: int
    period: int

    @classmethod
    def from_cut(cls, cut: Cut, extra_periods: int) -> Periods:
        """Return those of the shallow model with so many periods more than the fewest possible."""
        return cls(path=cut.path, end=cut.count_kept(extra_periods), period=cut.period)

    def repeat(self, index: int, times: int) -> list[int]:
        """Return the layers of a model with so many periods more that a layer stands for."""
        if index >= self.end:
            return [index + times * self.period]
        if index < self.end - self.period:
            return [index]
        return [index + number * self.period for number in range(times + 1)]

    def split(self, name: str) -> tuple[str, str, str] | None:
        """Return a name before its layers, the layers, and what follows; None where it is not in the list."""
        wrapper = _WRAPPER if name.startswith(_WRAPPER) else ""
        before = f"{wrapper}{self.path}."
        if not name.startswith(before):
            return None
        layers, dot, rest = name.removeprefix(before).partition(".")
        return before, layers, dot + rest

    def spell(self, name: str, times: int) -> str:
        """Return a folded name as it is where there are so many periods more."""
        parts = self.split(name)
        if parts is None:
            return name
        before, layers, rest = parts
        found = sorted({there for index in _unfold(layers) for there in self.repeat(index, times)})
        return f"{before}{fold_indices(found)}{rest}"


def extrapolate_record(shallow: _Record, deeper: _Record, periods: Periods, times: int) -> _Record:
    """Return the record of a model that has `times` periods more than the shallow one; the deeper one has one more.

    `periods` are those of the shallow one. Raises NotPeriodicError where the two do not say it.
    """
    return cast(_Record, _extrapolate(shallow, deeper, periods, times, type(shallow).__name__))


def _extrapolate(shallow: Any, deeper: Any, periods: Periods, times: int, where: str) -> Any:
    """Return a value of the whole model; `where` names it."""
    if isinstance(shallow, str) and isinstance(deeper, str):
        return _extrapolate_text(shallow, deeper, periods, times, where)
    if type(shallow) is int and type(deeper) is int:
        return shallow + times * (deeper - shallow)
    if type(shallow) is not type(deeper):
        raise NotPeriodicError(where)
    if isinstance(shallow, Worded):
        return word(_extrapolate(shallow.of, deeper.of, periods, times, f"{where}.{shallow.code}"))
    if dataclasses.is_dataclass(shallow) and not isinstance(shallow, type):
        changes = {
            name: _extrapolate(getattr(shallow, name), getattr(deeper, name), periods, times, f"{where}.{name}")
            for name in (item.name for item in dataclasses.fields(shallow))
        }
        return dataclasses.replace(shallow, **changes)
    if isinstance(shallow, Mapping):
        return _extrapolate_mapping(shallow, deeper, periods, times, where)
    if isinstance(shallow, Sequence) and not isinstance(shallow, (str, bytes)):
        if len(shallow) != len(deeper):
            raise NotPeriodicError(where)
        items = [
            _extrapolate(one, other, periods, times, f"{where}[{place}]")
            for place, (one, other) in enumerate(zip(shallow, deeper, strict=True))
        ]
        return items if isinstance(shallow, list) else tuple(items)
    if shallow != deeper:
        raise NotPeriodicError(where)
    return shallow


def _extrapolate_text(shallow: str, deeper: str, periods: Periods, times: int, where: str) -> str:
    """Return a text that is equal in both, or the name that it is."""
    if periods.split(shallow) is None:
        if shallow != deeper:
            raise NotPeriodicError(where)
        return shallow
    if periods.spell(shallow, 1) != deeper:
        raise NotPeriodicError(where)
    return periods.spell(shallow, times)


def _extrapolate_mapping(
    shallow: Mapping[Any, Any], deeper: Mapping[Any, Any], periods: Periods, times: int, where: str
) -> Mapping[Any, Any]:
    """Return a mapping with the keys that both have; bytes by dtype are in the order of their size."""
    if shallow.keys() != deeper.keys():
        raise NotPeriodicError(where)
    found = {key: _extrapolate(value, deeper[key], periods, times, f"{where}[{key}]") for key, value in shallow.items()}
    if where.endswith("dtypes"):
        if len(set(found.values())) < len(found):  # which of two equal ones comes first, their names do not say
            raise NotPeriodicError(where)
        return dict(sorted(found.items(), key=lambda item: -item[1]))
    if list(shallow) != list(deeper):
        raise NotPeriodicError(where)
    return found


def _unfold(layers: str) -> list[int]:
    """Return the numbers of layers that a level of a folded name stands for."""
    found: list[int] = []
    for run in layers.split(","):
        match = _RUN.fullmatch(run)
        if match is None:
            raise NotPeriodicError(layers)
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        found += range(first, last + 1, step)
    return found
