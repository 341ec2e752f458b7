"""How many cards a plan is about: a number, or two ends as people write them, such as 1-64."""

from __future__ import annotations

import re
from typing import Any

from inspector.checks import check_count, describe_value
from inspector.errors import UsageError

__all__ = ["MOST_PLANNED", "read_card_counts"]

# A device mesh lists its ranks: 16,384 of them take 13 s of a trace that is done in 3 s.
MOST_PLANNED = 4096


def read_card_counts(value: Any) -> tuple[int, int] | None:
    """Return the least and the most cards that a plan is about, None for one card: a plan of recipes.

    Raises UsageError for anything but a number, two of them in a list, or text such as "1-64".
    """
    ends = _split(value)
    if ends is None:
        raise UsageError(f"`gpu_count` is {describe_value(value)}; give a number of cards, or two as in 1-64.")
    least, most = (check_count("gpu_count", end) for end in ends)
    if least > most:
        raise UsageError(f"`gpu_count` is {least:,}-{most:,}; give the smaller number first.")
    if most > MOST_PLANNED:
        raise UsageError(f"`gpu_count` is {most:,}; a plan goes up to {MOST_PLANNED:,} cards.")
    return None if most == 1 else (least, most)


def _split(value: Any) -> tuple[Any, Any] | None:
    """Return both ends of what was given, None where it is nothing of the kind."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:[-–]\s*(\d{1,9})\s*)?", value)
        return None if match is None else (int(match[1]), int(match[2] or match[1]))
    if isinstance(value, (list, tuple)):
        return (value[0], value[1]) if len(value) == 2 else None
    return value, value
