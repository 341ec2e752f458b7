"""What the user should know beside the figures."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "LEFT_OUT",
    "Notice",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the user should know beside the figures. `code` is stable, kebab-case; `message` is one sentence."""

    code: str
    message: str


# The code of the notice that a batch leaves out a kind of input which the model takes.
LEFT_OUT = {"images": "no-image", "sound": "no-sound", "boxes": "no-boxes"}
