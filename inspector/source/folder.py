"""Files of a directory on this machine, listed and read in part; nothing of what a header says leads out of it.

Links to directories are not followed, links to files are, as transformers does (the cache of huggingface_hub consists
of them). Only regular files are opened: a pipe or a device could block for ever. Of a file that does not belong to a
checkpoint, no content is shown.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from inspector.errors import one_line
from inspector.records.checkpoint import StoredFile
from inspector.source.checkpoint import UnreadError

__all__ = ["FolderReader", "list_files"]

# Repositories have some hundred files; a home directory named by mistake has no end.
_MOST_FILES = 20_000
_DEEPEST = 8


def list_files(folder: Path) -> tuple[StoredFile, ...]:
    """Return the regular files in `folder` and below, by their names relative to it, hidden ones left out."""
    found: list[StoredFile] = []
    pending = [(folder, "", 0)]
    while pending and len(found) < _MOST_FILES:
        directory, prefix, depth = pending.pop()
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError:  # not readable: as if it were not there
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir(follow_symlinks=False) and depth < _DEEPEST:
                    pending.append((directory / entry.name, f"{prefix}{entry.name}/", depth + 1))
                elif entry.is_file():
                    found.append(StoredFile(name=prefix + entry.name, bytes=entry.stat().st_size))
            except OSError:  # a link in a circle
                continue
    return tuple(found)


class FolderReader:
    """Reads parts of the files below one directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read_part(self, name: str, start: int, length: int) -> tuple[bytes, int | None]:
        """Return up to `length` bytes of a file from `start` on, and the size of the file."""
        try:
            # Not blocking: between listing and opening, a file can become a pipe.
            descriptor = os.open(self._folder / name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            with os.fdopen(descriptor, "rb") as file:
                facts = os.fstat(descriptor)
                if not stat.S_ISREG(facts.st_mode):
                    raise UnreadError(f"{one_line(name)} is not a regular file")
                file.seek(start)
                return file.read(length), facts.st_size
        except (OSError, ValueError) as error:
            reason = one_line(getattr(error, "strerror", None) or error)
            raise UnreadError(f"{one_line(name)}: {reason}") from error

    def read_whole(self, name: str, most_bytes: int) -> bytes:
        """Return a whole file of up to `most_bytes`; UnreadError where it is longer or cannot be read."""
        content, _ = self.read_part(name, 0, most_bytes + 1)
        if len(content) > most_bytes:
            raise UnreadError(f"{one_line(name)} has more than {most_bytes:,} bytes")
        return content
