"""The command line: arguments -> Request, a renderer, an exit code. No arithmetic, and no torch before it is needed.

Exit codes: 0 done, 1 the step does not fit a GPU that was named, 2 wrong usage, 3 the model could not be had, 4 the
model cannot be inspected, 130 interrupted. An error is one line on standard error; a traceback only with
INSPECTOR_DEBUG=1.

click only reads the arguments: a command returns its work, which `main` then does. Done inside click, work that is
interrupted would print an empty line more, and one whose reader leaves would exit with 1, which means something else.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from inspector.arguments import PARAMETERS, Job, job_of
from inspector.commands import SUBCOMMANDS
from inspector.errors import InspectorError, ModelUnavailableError, UsageError, one_line
from inspector.output import opened, remove_partial_files
from inspector.printing import progress_shown, render_document
from inspector.subcommands import (
    CONTEXT_SETTINGS,
    WithSubcommands,
    Work,
    near_subcommand,
    said_by_click,
    with_hint,
)

if TYPE_CHECKING:
    from inspector.records import Report

__all__ = ["command", "main"]

_LONGEST_MESSAGE = 1000
_DOES_NOT_FIT = 1


@click.command(
    name="inspect",
    cls=WithSubcommands,
    params=list(PARAMETERS),
    context_settings=CONTEXT_SETTINGS,
    epilog="Shell completion: _INSPECT_COMPLETE=bash_source inspect (or zsh_source, fish_source) prints the script.",
)
def command(model: str, **options: Any) -> Work:
    """Say exactly how many parameters MODEL has, how many an adapter trains, and what they cost in bytes.

    MODEL is a Hub id (Qwen/QwQ-32B), a local directory, a path to a config.json, or an adapter (Hub id or directory
    holding adapter_config.json). No weights are downloaded and no GPU is needed.

    \b
    inspect Qwen/QwQ-32B --lora r=16 --targets all-linear
    inspect meta-llama/Llama-3.2-3B --peft '{"peft_type": "LN_TUNING"}' --json
    inspect Qwen/Qwen2.5-7B --lora r=8 --gpu 4090 && accelerate launch train.py

    Other commands: `inspect gpus` lists the GPUs that --gpu knows, `inspect plan MODEL --gpu NAME` goes through ways to
    train on one, `inspect compare MODEL --with OPTIONS` sets recipes side by side, `inspect measure MODEL` runs the
    step on the GPU at hand and prints predicted beside measured. A directory of such a name is given as ./gpus.
    """  # noqa: D301  # click wants the backspace itself: it keeps the lines of the examples
    if model in SUBCOMMANDS:
        raise UsageError(f"{model} is a command of its own: write inspect {model} first, or ./{model} for a directory.")
    return functools.partial(_inspect, job_of(model=model, **options))


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with the contract's code; every error is one line."""
    # This process is the command, and Ctrl-C is meant for it: not so under nohup or behind a script's `&`.
    if arguments is None:
        # Nor is there garbage worth a walk over all that is loaded by now; the last one is when Python shuts down.
        gc.disable()
        atexit.register(gc.freeze)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupted)
    try:
        work = command.main(arguments, prog_name=_program_name(), standalone_mode=False)
        code = work() if callable(work) else 0  # there is none after --help or --version
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except click.ClickException as error:
        meant = _meant_command(arguments)
        _fail(with_hint(said_by_click(error, PARAMETERS, 400), meant or "see --help."), 2)
    except ModelUnavailableError as error:
        meant = _meant_command(arguments)
        _fail(f"{str(error).rstrip('.')}; {meant}" if meant else str(error), error.exit_code)
    except InspectorError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        _fail(
            f"unexpected {type(error).__name__}: {one_line(error)}; INSPECTOR_DEBUG=1 shows where, please report it.", 4
        )
    if code:
        sys.exit(code)


def _meant_command(arguments: list[str] | None) -> str | None:
    """Ask whether a subcommand was meant, where the first word is nearly one."""
    near = near_subcommand(sys.argv[1:] if arguments is None else arguments)
    return None if near is None else f"did you mean the command inspect {near}?"


def _interrupted(_signal: int, _frame: object) -> NoReturn:
    """End at once on Ctrl-C.

    A KeyboardInterrupt would surface inside whatever import is at work; importlib can swallow it and keep its lock, on
    which the thread that imports beside it then waits for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one adds nothing
    remove_partial_files()
    with contextlib.suppress(OSError):
        if sys.stderr is not None:  # else 2 may be the number of another file
            os.write(2, b"inspect: interrupted\n")
    os._exit(130)


def _inspect(job: Job) -> int:
    """Inspect, print or write the report, and return the exit code."""
    from inspector.pipeline import run

    with progress_shown(shown=job.progress, color=job.color) as progress:
        report = run(job.request, progress)
    with opened(job.output) as stream:
        _render(report, job.format, stream, color=job.color)
    named = bool(job.request.gpus or job.request.gpu_memory)
    return _DOES_NOT_FIT if named and not all(verdict.fits for verdict in report.fit or ()) else 0


def _render(report: Report, format_: str, stream: TextIO, *, color: bool) -> None:
    """Write the report in the format asked for."""
    if format_ == "json":
        from inspector.render.json_report import render_json

        render_json(report, stream)
    else:
        from inspector.render.facts import document

        render_document(document(report), format_, stream, color=color)


def _fail(message: str, exit_code: int) -> NoReturn:
    """Print one line on standard error, after the traceback with INSPECTOR_DEBUG=1, and exit."""
    if os.environ.get("INSPECTOR_DEBUG") == "1":
        traceback.print_exc()
    if sys.stderr is not None:
        # Names of files and of the Hub may hold anything; terminals obey what they are sent.
        print(f"inspect: {one_line(message, _LONGEST_MESSAGE)}", file=sys.stderr)
    sys.exit(exit_code)


def _program_name() -> str:
    """Return the name the user typed, so that completion scripts are made for that command."""
    name = Path(sys.argv[0]).name
    return "python -m inspector" if name == "__main__.py" else name
