"""Where the command writes: a file that appears whole or not at all, or standard output, which may close early."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from inspector.errors import UsageError, one_line, quoted

__all__ = ["check_output", "open_output", "remove_partial_files"]

# What an encoding lacks, or JSON smuggled in as half a character, is spelt out: no report fails over a sign.
_ERRORS = "backslashreplace"
# What is being written, for an interrupt to take away.
_PARTIAL_FILES: list[Path] = []


def open_output(path: Path | None, *, quiet: bool = False) -> contextlib.AbstractContextManager[TextIO]:
    """Open the file that output goes to, or standard output for None; say on a terminal that a file was written."""
    return _open_standard_output() if path is None else _open_file(path, quiet=quiet)


def remove_partial_files() -> None:
    """Take away what is half written."""
    with contextlib.suppress(OSError):
        for partial in _PARTIAL_FILES:
            partial.unlink(missing_ok=True)


def check_output(output: str | None) -> Path | None:
    """Return the file to write, or raise UsageError where that cannot be: better now than after the work."""
    if output in (None, "-"):
        return None
    what = f"--output {quoted(output)}"
    if not output or "\0" in output:
        raise UsageError(f"{what} is no file name: name the file to write.")
    try:
        path = Path(output).expanduser()
        if path.is_dir():
            raise UsageError(f"{what} is a directory: name a file in it.")
        if not path.parent.is_dir():
            raise UsageError(f"{what}: there is no directory {quoted(path.parent)}; create it first.")
        allowed = os.access(path if path.exists() else path.parent, os.W_OK)
    except (OSError, RuntimeError):  # a name that is too long; no home directory
        allowed = False
    if not allowed:
        raise UsageError(f"{what} cannot be written: name a file elsewhere.")
    return path


@contextlib.contextmanager
def _open_file(path: Path, *, quiet: bool) -> Iterator[TextIO]:
    """Open the file that the report goes to; it appears whole or not at all."""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe, which must stay what it is
            with path.open("w", encoding="utf-8", errors=_ERRORS) as stream:
                yield stream
            return
        target = path.resolve()  # a link stays a link
        partial = target.with_name(f".inspect-{os.getpid()}.part")
        try:
            _PARTIAL_FILES.append(partial)
            with partial.open("x", encoding="utf-8", errors=_ERRORS) as stream:
                yield stream
            partial.replace(target)
        finally:
            _PARTIAL_FILES.remove(partial)
            partial.unlink(missing_ok=True)
        if not quiet and sys.stderr is not None and sys.stderr.isatty():
            print(f"inspect: wrote {one_line(path)}", file=sys.stderr)
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise UsageError(f"--output {quoted(path)} cannot be written ({reason}): name a file elsewhere.") from error


@contextlib.contextmanager
def _open_standard_output() -> Iterator[TextIO]:
    """Yield standard output and see to it that what was written has arrived."""
    if sys.stdout is None:  # closed by whoever started the command
        raise UsageError("standard output is closed: write to a file with --output.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_ERRORS)
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more while it shuts down, and would complain; what is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever reads has seen enough, as `head` does
            return
        reason = one_line(error.strerror or error)
        raise UsageError(f"standard output cannot be written ({reason}): write to a file with --output.") from error
