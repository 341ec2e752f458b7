"""Notices whose numbers and names stay apart from their words until a model is counted.

What two shallow models say of a deep one is worked out of the facts (`records`), and worded then: a share may
read alike in both, and be another one in the whole model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from inspector.records.notice import Notice

__all__ = ["Facts", "Worded", "drop_facts", "word"]


class Facts(Protocol):
    """What a notice is worded of: a record, whose integers grow with each period of layers and whose texts do not.

    Names of layers among them have those that a period adds (`records`).
    """

    def word(self) -> Notice:
        """Return the notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worded(Notice):
    """A notice with its facts."""

    of: Facts


def word(facts: Facts) -> Worded:
    """Return the notice of facts, with them."""
    notice = facts.word()
    return Worded(code=notice.code, message=notice.message, of=facts)


def drop_facts(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """Return notices as they are reported."""
    return tuple(Notice(code=item.code, message=item.message) for item in notices)
