"""What every figure depends on beside the question: the libraries, this package and Python, without importing any.

Names and versions of all that is installed come from the folders that installers leave (`torch-2.13.0.dist-info`), the
state of this package from the size and time of each of its files, so that code that was edited is other code. What is
traced is transformers and PEFT on torch: where one of them would be imported from elsewhere than where its installed
release lies, or is installed to be edited, no version says what it does, and nothing is kept.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["digest_environment"]

_PACKAGE = Path(__file__).resolve().parents[1]
_FIXTURES = _PACKAGE.parent / "fixtures"  # of a checkout; an installed package holds them itself
_INSTALLED = re.compile(r"(.+)\.(?:dist|egg)-info")
# What is run, not only read: the names of their packages and of their releases are the same.
_RUN = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "deepspeed")
# Variables that these read, but for those that say how much they print: the command sets one itself.
_PREFIXES = ("TRANSFORMERS_", "TORCH_", "ACCELERATE_", "PEFT_", "BNB_", "PYTHONHASHSEED")
_OF_PRINTING = ("LOG_LEVEL", "VERBOSITY", "WARNINGS")


@functools.cache
def digest_environment() -> str | None:
    """Return what is equal for two processes that answer alike, None where no version says what the libraries do."""
    installed = dict(_list_installed())
    parts: list[str] = [sys.version, sys.platform, *sorted(path.name for path in installed.values())]
    for name in _RUN:
        release = installed.get(name)
        found = _find_package(name)
        if release is None and found is None:
            continue
        if release is None or found is None or release.parent != found or _is_editable(release):
            return None
        parts.append(_describe_file(release / "RECORD"))
    parts += _describe_files(_PACKAGE)
    if _FIXTURES.is_dir():
        parts += _describe_files(_FIXTURES)
    read = sorted(name for name in os.environ if name.startswith(_PREFIXES) and not name.endswith(_OF_PRINTING))
    parts += (f"{name}={os.environ[name]}" for name in read)
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()


def _list_installed() -> Iterator[tuple[str, Path]]:
    """Yield the name of each installed distribution with its folder, what is imported first last."""
    for entry in reversed(sys.path):
        try:
            names = sorted(path.name for path in Path(entry or ".").iterdir())
        except OSError:  # an archive, or a folder that is gone
            continue
        for name in names:
            match = _INSTALLED.fullmatch(name)
            if match is not None:
                yield match[1].partition("-")[0].lower().replace("-", "_"), Path(entry).resolve() / name


def _find_package(name: str) -> Path | None:
    """Return the folder that a package would be imported from, None where there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: a module that stands in for it
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve().parents[1]


def _is_editable(release: Path) -> bool:
    """Tell whether a release was installed from a folder that may have changed since."""
    try:
        return '"editable": true' in (release / "direct_url.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def _describe_file(path: Path) -> str:
    """Return what changes when a file is written anew."""
    try:
        state = path.stat()
    except OSError:
        return str(path)
    return f"{path} {state.st_size} {state.st_mtime_ns}"


def _describe_files(folder: Path) -> Iterator[str]:
    """Yield what changes when any file of a folder does, those that Python compiles left out."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _describe_files(Path(entry.path))
        else:
            state = entry.stat()
            yield f"{entry.path} {state.st_size} {state.st_mtime_ns}"
