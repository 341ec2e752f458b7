"""What stands at the other end of standard output: a reader that leaves, a terminal that is dumb, a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from .running import HANGS, SMALL

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="pipes and terminals of POSIX"),
    pytest.mark.usefixtures("shared_answers"),
]
INSPECT = (sys.executable, "-m", "inspector")
COUNT = (SMALL, "--offline", "--count-only")
PLAN = (
    "plan",
    SMALL,
    "--offline",
    "--gpu",
    "h100",
    "--fit",
    "none",
    "--lora",
    "r=8",
    "--quantization",
    "none",
    "--attention",
    "eager",
    "--seq-len",
    "16",
)

# One of each command and format that writes to standard output.
COMMANDS = {
    "help": ("--help",),
    "version": ("--version",),
    "help of a command": ("compare", "--help"),
    "report": COUNT,
    "details": (*COUNT, "--details"),
    "json": (*COUNT, "--json"),
    "markdown": (*COUNT, "--format", "markdown"),
    "gpus": ("gpus",),
    "gpus as json": ("gpus", "--json"),
    "plan": PLAN,
    "compare": ("compare", *COUNT, "--with", "--lora r=8"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_leaves_is_no_verdict_and_no_error(name: str) -> None:
    """Behind `| head` a command exits as without it, and complains of nothing: 1 is for a GPU that is too small."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ran = subprocess.run(
            (*INSPECT, *COMMANDS[name]), stdout=writing, stderr=subprocess.PIPE, timeout=HANGS, check=False
        )
    finally:
        os.close(writing)
    assert (ran.returncode, ran.stderr) == (0, b"")


def read_terminal(*arguments: str, environment: Mapping[str, str]) -> bytes:
    """Return what a command writes to a terminal of its own, standard error included."""
    ours, theirs = os.openpty()
    removed = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    with subprocess.Popen((*INSPECT, *arguments), stdout=theirs, stderr=theirs, env={**removed, **environment}):
        os.close(theirs)
        written = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not piece:
                break
            written += piece
    os.close(ours)
    return written


def test_a_dumb_terminal_gets_no_escape_sequence() -> None:
    """Neither colours nor the progress that is drawn over itself."""
    assert b"\x1b" in read_terminal(*COUNT, environment={"TERM": "xterm-256color"})
    dumb = read_terminal(*COUNT, environment={"TERM": "dumb"})
    assert b"494,032,768" in dumb
    assert b"\x1b" not in dumb


def test_a_pipe_gets_the_text_of_a_terminal_of_80_columns() -> None:
    """What is read in a pager or kept in a file is what the screen shows, without its colours."""
    terminal = read_terminal(*COUNT, "--no-color", "--quiet", environment={"TERM": "xterm", "COLUMNS": "80"})
    piped = subprocess.run((*INSPECT, *COUNT), stdout=subprocess.PIPE, timeout=HANGS, check=True).stdout
    assert terminal.replace(b"\r\n", b"\n") == piped


def test_a_file_that_was_written_is_named_on_a_terminal_alone(tmp_path: Path) -> None:
    """One line on standard error; a script that redirects it, or says --quiet, reads nothing."""
    path = tmp_path / "report.json"
    arguments = (*COUNT, "--output", str(path), "--quiet")
    seen = read_terminal(*arguments[:-1], environment={"TERM": "dumb", "COLUMNS": "200"})
    assert seen.decode().strip() == f"inspect: wrote {path}"
    assert path.stat().st_size
    assert read_terminal(*arguments, environment={"TERM": "dumb"}) == b""
    piped = subprocess.run((*INSPECT, *arguments[:-1]), capture_output=True, timeout=HANGS, check=True)
    assert (piped.stdout, piped.stderr) == (b"", b"")
