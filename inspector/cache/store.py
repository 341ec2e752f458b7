"""Files of the user's cache directory: written whole or not at all, read only as they were written, bounded in size.

An entry is a file of a magic line, the SHA-256 of the rest, a line of JSON that says what it is about, and what is
kept, compressed. One that is cut off, damaged or foreign is as good as none, and so is a folder that cannot be read or
written: the answer is then worked out, as it would be without a cache. Entries lie in a folder for each environment
(`digest_environment`), so that two releases do not disturb each other. Reading an entry sets its time; where all
together are larger than `MOST_BYTES` those that were not read for longest are removed. Times serve for that alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["MOST_BYTES", "VARIABLE", "Entry", "Store", "find_folder", "list_entries", "list_files", "remove_oldest"]

VARIABLE = "INSPECTOR_CACHE"
MOST_BYTES = 256 * 2**20
_OFF = ("", "0", "off", "none")
_NAME = "model-inspector"
_MAGIC = b"model-inspector cache 1\n"
_ENDING = ".kept"
_PARTIAL = ".part"
_FOLDER = re.compile(r"[0-9a-f]{16}")
_KEPT = re.compile(r"[a-z]+-[0-9a-f]{32}(?:-[0-9a-f]{32})?\.kept")
_LARGEST_FILE = 48 * 2**20
_LARGEST_CONTENT = 256 * 2**20
# What stays when the oldest are removed, so that not every write has to remove some.
_LEFT_AFTER_TRIM = 0.9
# Clocks of a disk of another machine are that far ahead at most.
_AHEAD_NS = 60 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A kept file: where it is, its size, when it was read last, and what it is about."""

    path: Path
    bytes: int
    used: float
    about: Mapping[str, Any]


def find_folder() -> Path | None:
    """Return the folder of the cache, which need not exist; None where INSPECTOR_CACHE says that there is none.

    By default it is where platformdirs and pip have theirs: `~/.cache` or XDG_CACHE_HOME on Linux, `~/Library/Caches`
    on macOS, LOCALAPPDATA on Windows.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        return None if named.strip().lower() in _OFF else Path(named).expanduser()
    try:
        home = Path.home()
    except RuntimeError:  # a user without one
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / _NAME
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / _NAME / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / _NAME


class Store:
    """The entries of one environment in a folder."""

    def __init__(self, folder: Path, environment: str) -> None:
        self._root = folder
        self._folder = folder / environment[:16]
        self._has_written = False

    def read(self, name: str) -> bytes | None:
        """Return what is kept by a name, None where that is nothing, or nothing that was written here."""
        path = self._folder / f"{name}{_ENDING}"
        content = _read_content(path)
        if content is not None:
            with contextlib.suppress(OSError):  # of another user, or on a disk that is not to be written
                os.utime(path)
        return content

    def write(self, name: str, content: bytes, about: Mapping[str, Any]) -> None:
        """Keep something by a name; do nothing where the folder cannot be written."""
        rest = json.dumps(about).encode() + b"\n" + zlib.compress(content, 6)
        if len(rest) > _LARGEST_FILE or len(content) > _LARGEST_CONTENT:
            return
        with contextlib.suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)
            self._folder.mkdir(exist_ok=True)
            descriptor, partial = tempfile.mkstemp(dir=self._folder, prefix=".", suffix=_PARTIAL)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_MAGIC + hashlib.sha256(rest).digest() + rest)
                Path(partial).replace(self._folder / f"{name}{_ENDING}")
                self._has_written = True
            finally:
                Path(partial).unlink(missing_ok=True)

    def trim(self) -> None:
        """Remove what was not read for longest, where something was written and all together is too large."""
        if self._has_written:
            self._has_written = False
            remove_oldest(self._root, MOST_BYTES)


def list_entries(folder: Path) -> Iterator[Entry]:
    """Yield the entries of all environments, in no order; other files of the folder are none."""
    for path, state in list_files(folder):
        about = _read_about(path)
        if about is not None:
            yield Entry(path=path, bytes=state.st_size, used=state.st_mtime, about=about)


def remove_oldest(folder: Path, most_bytes: int) -> int:
    """Remove the entries that were read before all others until few enough bytes are left; return how many went.

    Those that are dated ahead go first: the clock went back since, and nothing says when they were read.
    """
    now = time.time_ns() + _AHEAD_NS
    dated = ((state.st_mtime_ns, state.st_size, path) for path, state in list_files(folder))
    files = sorted(((date if date <= now else 0, size, path) for date, size, path in dated), reverse=True)
    if sum(size for _, size, _ in files) <= most_bytes:
        return 0
    kept_bytes, removed = 0, 0
    for _, size, path in files:
        kept_bytes += size
        if kept_bytes > most_bytes * _LEFT_AFTER_TRIM:
            with contextlib.suppress(OSError):
                path.unlink()
                removed += 1
    for inner in {path.parent for _, _, path in files}:
        with contextlib.suppress(OSError):  # those that are not empty
            inner.rmdir()
    return removed


def list_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield what was written here, by its name, and parts that an ended process left."""
    for inner in _scan(folder):
        if not _FOLDER.fullmatch(inner.name) or inner.is_symlink() or not inner.is_dir():
            continue
        for entry in _scan(Path(inner.path)):
            is_partial = entry.name.startswith(".") and entry.name.endswith(_PARTIAL)
            if (is_partial or _KEPT.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _read_content(path: Path) -> bytes | None:
    """Return what a file holds, decompressed; None where it is not as it was written."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError:
        return None
    start = len(_MAGIC) + hashlib.sha256().digest_size
    if not data.startswith(_MAGIC) or hashlib.sha256(data[start:]).digest() != data[len(_MAGIC) : start]:
        return None
    _, _, packed = data[start:].partition(b"\n")
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, _LARGEST_CONTENT)
    except zlib.error:
        return None
    return content if unpacker.eof else None


def _read_about(path: Path) -> Mapping[str, Any] | None:
    """Return what a file says that it is about, None where it says nothing."""
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            file.seek(hashlib.sha256().digest_size, os.SEEK_CUR)
            about = json.loads(file.readline(2**16))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None
