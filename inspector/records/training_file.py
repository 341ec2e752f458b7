"""What was read of a training file, such as axolotl's `train.yaml`: fields, where each is from, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inspector.checks import Choice
from inspector.records.notice import Notice

__all__ = ["Effect", "FieldNotModelled", "FileField", "Origin", "RequestSource", "TrainingFile", "UnreadField"]


class Origin(Choice):
    """Where a value is from.

    FILE: it stands in the file. DEFAULT: the framework takes it by itself. OPTION: it was given beside the file.
    """

    FILE = "file"
    DEFAULT = "default"
    OPTION = "option"


class Effect(Choice):
    """How the real step differs from the figures, because of what is not modelled.

    LESS, MORE: it takes less, or more, memory than the figures say. UNKNOWN: either way.
    """

    LESS = "less"
    MORE = "more"
    UNKNOWN = "unknown"

    @property
    def direction(self) -> str:
        """Return the effect in words."""
        return {"less": "takes less", "more": "takes more"}.get(self.value, "either way")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileField:
    """A field that decides memory. `becomes` is the field of a Request or a Recipe that it sets, or a part of one.

    `name` is the field as the file spells it. Of `value` nothing is kept that could be a secret.
    """

    name: str
    value: Any
    origin: Origin = field(metadata={"key": "from"})
    becomes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldNotModelled:
    """A field, or what a framework does by itself, that changes memory and is in none of the figures."""

    name: str
    value: Any
    origin: Origin = field(metadata={"key": "from"})
    effect: Effect
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadField:
    """A field whose value only running the file would tell, and what was taken in its place."""

    name: str
    assumed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFile:
    """A file that a trainer or a launcher reads, as `framework` in `version` reads it.

    `stage` is what the trainer does with the model (sft, dpo, grpo, ...), None for a launcher's file. `unknown` are
    names of fields that are not known of the framework and were not read, `remarks` what the framework itself would say
    of others. `spelling` are the values of the file by the
    names of the framework's table and `spelled` the names that the file has for these: what a change is spelt from.
    `version_from` says why it is this version: "option", "installed", or "newest" for the newest that is known.
    """

    path: str
    framework: str
    version: str
    version_from: str = "newest"
    stage: str | None = None
    fields: Sequence[FileField] = ()
    not_modelled: Sequence[FieldNotModelled] = ()
    unread: Sequence[UnreadField] = ()
    unknown: Sequence[str] = ()
    remarks: Sequence[Notice] = ()
    spelling: Mapping[str, Any] = field(default_factory=dict)
    spelled: Mapping[str, str] = field(default_factory=dict)

    def count(self, origin: Origin) -> int:
        """Return how many of the fields are from there."""
        return sum(item.origin is origin for item in self.fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSource:
    """The files that a request was read from: a training file, and files of launchers beside it."""

    file: TrainingFile | None = None
    launch: Sequence[TrainingFile] = ()
