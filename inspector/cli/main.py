"""The command line: arguments -> Request, a renderer, an exit code. No arithmetic, and no torch before it is needed.

Exit codes: 0 done, 1 the step does not fit a GPU that was named, 2 wrong usage, 3 the model could not be had, 4 the
model cannot be inspected, 70 a defect of the inspector itself, 130 interrupted (`exit_codes`). An error is one line on
standard error; a traceback only with INSPECTOR_DEBUG=1.

click only reads the arguments: a command returns its work, which `main` then does. Done inside click, work that is
interrupted would print an empty line more, and one whose reader leaves would exit with 1, which means something else.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from inspector.cli.commands import app, cache, compare, gpus, measure, models, plan, sweep  # noqa: F401  # each registers its command
from inspector.cli.commands.inspect import command
from inspector.cli.console import print_error
from inspector.cli.exit_codes import ExitCode
from inspector.cli.group import SUBCOMMANDS, add_hint, describe_click_error, suggest_subcommand
from inspector.cli.option_groups.engines import OF_ENGINES
from inspector.cli.options import PARAMETERS
from inspector.cli.output import remove_partial_files
from inspector.cli.slips import explain_slip
from inspector.errors import InspectorError, ModelUnavailableError, one_line

__all__ = ["command", "main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with the contract's code; every error is one line."""
    # This process is the command, and Ctrl-C is meant for it: not so under nohup or behind a script's `&`.
    if arguments is None:
        # Nor is there garbage worth a walk over all that is loaded by now; the last one is when Python shuts down.
        gc.disable()
        atexit.register(gc.freeze)
        # torch's C++ code warns by itself where it runs on no GPU, past all that Python can silence.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _end_at_interrupt)
    try:
        work = _read_arguments(arguments)
        code = work() if callable(work) else ExitCode.DONE  # there is none after --help or --version
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", ExitCode.INTERRUPTED)
    except click.ClickException as error:
        meant = _suggest_command(arguments)
        known = (*PARAMETERS, *OF_ENGINES)
        words = sys.argv[1:] if arguments is None else arguments
        slip = None if meant else explain_slip(error, words, known, tuple(SUBCOMMANDS))
        if slip is not None:
            _fail(slip, ExitCode.WRONG_USAGE)
        _fail(add_hint(describe_click_error(error, known, 400), meant or "see --help."), ExitCode.WRONG_USAGE)
    except ModelUnavailableError as error:
        meant = _suggest_command(arguments)
        _fail(f"{str(error).rstrip('.')}; {meant}" if meant else str(error), error.exit_code)
    except InspectorError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        _fail(
            f"internal error, {type(error).__name__}: {one_line(error)}; this is a defect of model-inspector: please "
            "report it with what INSPECTOR_DEBUG=1 shows.",
            ExitCode.INTERNAL,
        )
    if code:
        sys.exit(code)


def _read_arguments(arguments: list[str] | None) -> object:
    """Return the work that the arguments ask for; --help and --version are printed here, and there is none."""
    try:
        return command.main(arguments, prog_name=_find_program_name(), standalone_mode=False)
    except SystemExit as stop:
        # click ends with 1 where whoever reads the help has left (`Command.main`), which here would be a verdict.
        if stop.code == 1:
            return None
        raise


def _suggest_command(arguments: list[str] | None) -> str | None:
    """Ask whether a subcommand was meant, where the first word is nearly one."""
    near = suggest_subcommand(sys.argv[1:] if arguments is None else arguments)
    return None if near is None else f"did you mean the command inspect {near}?"


def _end_at_interrupt(_signal: int, _frame: object) -> NoReturn:
    """End at once on Ctrl-C.

    A KeyboardInterrupt would surface inside whatever import is at work; importlib can swallow it and keep its lock, on
    which the thread that imports beside it then waits for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one adds nothing
    remove_partial_files()
    with contextlib.suppress(OSError):
        if sys.stderr is not None:  # else 2 may be the number of another file
            os.write(2, b"inspect: interrupted\n")
    os._exit(ExitCode.INTERRUPTED)


def _fail(message: str, exit_code: int) -> NoReturn:
    """Print one line on standard error, after the traceback with INSPECTOR_DEBUG=1, and exit."""
    if os.environ.get("INSPECTOR_DEBUG") == "1":
        traceback.print_exc()
    print_error(message)
    sys.exit(exit_code)


def _find_program_name() -> str:
    """Return the name the user typed, so that completion scripts are made for that command."""
    name = Path(sys.argv[0]).name
    return "python -m inspector" if name == "__main__.py" else name
