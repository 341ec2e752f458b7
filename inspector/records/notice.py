"""What the user should know beside the figures."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Notice",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the user should know beside the figures. `code` is stable, kebab-case; `message` is one sentence."""

    code: str
    message: str
