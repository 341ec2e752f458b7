"""A question of a visitor and what it is answered with: what crosses between the page, the pool and a worker."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Answer", "Kind", "Question", "Refusal", "Upload"]


class Kind(enum.Enum):
    """What is asked for.

    REPORT: what `inspect MODEL` says. PLAN: what `inspect plan MODEL` says.
    """

    REPORT = "report"
    PLAN = "plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A training file that a visitor dropped: the name that it is given in commands, and what it holds."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The words of a command line behind its name, with the file that they may name."""

    kind: Kind
    words: tuple[str, ...]
    upload: Upload | None = None

    @property
    def key(self) -> str:
        """Return what two questions are equal by that have one answer."""
        upload = None if self.upload is None else (self.upload.name, hashlib.sha256(self.upload.content).hexdigest())
        return hashlib.sha256(repr((self.kind.value, self.words, upload)).encode()).hexdigest()

    @property
    def model(self) -> str:
        """Return the word that names the model, or the file that does."""
        return self.words[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A page, packed with gzip, and the command line that gives the same.

    `settings` are what the recipe came to, by the fields of a form, for the form to show.
    """

    page: bytes
    command: str
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why there is no answer, in one line."""

    message: str
