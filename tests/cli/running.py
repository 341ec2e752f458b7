"""Run the command in this process or as users do, and hold what came back against the contract of errors."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.cli.main import main
from tests.evidence.zoo.catalogue import FOLDER

__all__ = [
    "HANGS",
    "SMALL",
    "Ran",
    "assert_refused",
    "bundled_config",
    "run",
    "run_process",
    "script",
    "started_process",
    "written",
]

# A model of the catalogue that is built in a few hundredths of a second.
SMALL = "Qwen/Qwen2.5-0.5B"

# Seconds after which a process hangs: far more than any takes on a machine that is busy with other work.
HANGS = 300

# A next step is a request ("; name a file in it") or a question ("Did you mean all-linear?").
_NEXT_STEP = re.compile(
    r"[.;:,)] (or )?("
    r"accept|add|check|correct|create|did you mean|drop|give|look|make|merge|name|pass|read|save|see|set|unset|upgrade|"
    r"try|use|write) ",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Ran:
    """One run of the command."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """Return the JSON report of a run that went well."""
        assert self.code == 0, self.err
        assert self.err == "", "progress is for terminals"
        report = json.loads(self.out)
        assert isinstance(report, dict)
        return report


def run(*arguments: str) -> Ran:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = stop.code
    return Ran(code=code if isinstance(code, int) else 0, out=out.getvalue(), err=err.getvalue())


def run_process(
    *command: str, environment: Mapping[str, str] | None = None, stdout: int = subprocess.PIPE, timeout: int = HANGS
) -> Ran:
    """Run a command in a process of its own, with `environment` on top of this one's."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        timeout=timeout,
        check=False,
    )
    return Ran(code=done.returncode, out=(done.stdout or b"").decode(), err=done.stderr.decode())


@contextlib.contextmanager
def started_process(
    *command: str, environment: Mapping[str, str] | None = None, own_session: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Start a command, with `environment` in place of this process's one; none is left when the block ends."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        start_new_session=own_session,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def script(name: str) -> str:
    """Return the path of an installed console script."""
    return str(Path(sys.executable).with_name(name))


def assert_refused(ran: Ran, code: int, says: str = "") -> None:
    """Hold a failed run against the contract: the exit code, one printable line with a next step, and nothing else."""
    assert ran.code == code, ran
    assert ran.out == "", "an error leaves standard output empty"
    line, *rest = ran.err.split("\n")
    assert rest == [""], f"not one line: {ran.err!r}"
    assert line.isprintable(), f"control characters: {line!r}"
    assert line.startswith("inspect: "), line
    assert not line.startswith("inspect: unexpected "), line
    assert _NEXT_STEP.search(line), f"no next step: {line}"
    assert len(line) < 1200
    assert says.lower() in line.lower(), line


def bundled_config(name: str) -> dict[str, Any]:
    """Return a fresh copy of a catalogue entry's configuration."""
    config = json.loads((FOLDER / f"{name.replace('/', '__')}.json").read_text())["config"]
    assert isinstance(config, dict)
    return config


def written(folder: Path, content: object) -> str:
    """Write a config.json (bytes as they are, anything else as JSON) and return its path."""
    path = folder / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)
