"""Images, video and sound in the rows of a batch: how many, and how large; and how many labels there are."""

from __future__ import annotations

import re

from inspector.checks import check_count, check_number
from inspector.errors import UsageError, quoted

__all__ = [
    "ASSUMED_SECONDS",
    "ASSUMED_SIZE",
    "MOST_FRAMES",
    "MOST_LABELS",
    "MOST_VIDEOS",
    "check_media",
    "parse_image_size",
]

# What is taken where nothing is said: most photographs of COCO, which LLaVA's instructions are about, are 640 x 480;
# Whisper's window, which most encoders of speech have, is 30 seconds.
ASSUMED_SIZE = (640, 480)
ASSUMED_SECONDS = 30.0

_MOST_IMAGES = 1024
MOST_VIDEOS = 64
_LONGEST_SIDE = 16_384
_LONGEST_SECONDS = 36_000
MOST_FRAMES = 4096
# A configuration has a name for each.
MOST_LABELS = 1_000_000
_SIZE = re.compile(r"(\d{1,12})(?:[xX×](\d{1,12}))?")


def parse_image_size(text: str) -> tuple[int, int]:
    """Return width and height of "640x480", a side alone being both; raise UsageError for anything else."""
    found = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise UsageError(f'`image_size` must be width and height in pixels such as "640x480", not {quoted(text, 40)}.')
    width, height = int(found[1]), int(found[2] or found[1])
    if not (1 <= width <= _LONGEST_SIDE and 1 <= height <= _LONGEST_SIDE):
        raise UsageError(f"`image_size` must have sides of 1 to {_LONGEST_SIDE:,} pixels, not {quoted(text, 40)}.")
    return width, height


def check_media(
    images: int | None,
    image_size: str | None,
    audio_seconds: float | None,
    frames: int | None = None,
    labels: int | None = None,
    videos: int | None = None,
) -> dict[str, object]:
    """Return the fields that were given, checked; raise UsageError for those out of their range."""
    checked: dict[str, object] = {}
    for name, count, most in (("images", images, _MOST_IMAGES), ("videos", videos, MOST_VIDEOS)):
        if count is None or (count == 0 and not isinstance(count, bool)):
            continue
        if check_count(name, count) > most:
            raise UsageError(f"`{name}` must be at most {most:,}, not {count:,}.")
    if images and videos:
        raise UsageError("`images` and `videos` are not traced in one sequence: give one of them.")
    if image_size is not None:
        parse_image_size(image_size)
    if audio_seconds is not None:
        seconds = check_number("audio_seconds", audio_seconds)
        if seconds > _LONGEST_SECONDS:
            raise UsageError(f"`audio_seconds` must be at most {_LONGEST_SECONDS:,}, not {audio_seconds:,}.")
        checked["audio_seconds"] = seconds
    for name, count, most in (("frames", frames, MOST_FRAMES), ("labels", labels, MOST_LABELS)):
        if count is not None and check_count(name, count) > most:
            raise UsageError(f"`{name}` must be at most {most:,}, not {count:,}.")
    return checked
