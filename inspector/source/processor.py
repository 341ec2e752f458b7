"""What a repository says of its processor: how images, videos and sound become tensors.

preprocessor_config.json is the older file, processor_config.json of transformers 5 holds the same in parts. They are
merged, the newer one before the older. What is said of videos stands in a part of its own, `video_processor`:
video_preprocessor_config.json has it where the newer file has not. The values are whatever the repository wrote: who
reads one checks its type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inspector.errors import UnsupportedModelError
from inspector.records.checkpoint import StoredFile
from inspector.source.bounded_json import parse_object
from inspector.source.checkpoint import PartReader, UnreadError

__all__ = ["find_processor"]

_FILES = ("preprocessor_config.json", "processor_config.json")
_PARTS = ("feature_extractor", "image_processor")
_OF_VIDEOS, _VIDEOS = "video_preprocessor_config.json", "video_processor"
_MOST_BYTES = 256 * 2**10


def find_processor(files: Sequence[StoredFile], reader: PartReader) -> Mapping[str, Any] | None:
    """Return the settings of a repository's processor, None where it holds none that can be read."""
    present = {file.name for file in files}
    found: dict[str, Any] = {}
    for name in _FILES:
        fields = _read(name, reader) if name in present else {}
        parts = [fields[part] for part in _PARTS if isinstance(fields.get(part), Mapping)]
        for part in (fields, *parts):
            found |= {key: value for key, value in part.items() if key not in _PARTS}
    if not isinstance(found.get(_VIDEOS), Mapping) and _OF_VIDEOS in present:
        found |= {_VIDEOS: of_videos} if (of_videos := _read(_OF_VIDEOS, reader)) else {}
    return found or None


def _read(name: str, reader: PartReader) -> Mapping[str, Any]:
    """Return what a file holds, nothing where it cannot be read: the class's defaults are taken then, aloud."""
    try:
        return parse_object(reader.read_whole(name, _MOST_BYTES), name)
    except (UnreadError, UnsupportedModelError):
        return {}
