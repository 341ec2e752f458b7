"""Every exit code of the command, and the rules that choose one: the only place that decides them.

An error carries its own (`inspector.errors`). A reader that leaves before the end, as `head` does, has seen enough: it
changes no code, so that 1 means one thing alone.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

__all__ = ["ExitCode", "choose_code_if_all_fit", "choose_code_if_any_fits"]


class ExitCode(enum.IntEnum):
    """What the command exits with.

    DONE: the work is done and, where a GPU was named, the step fits it.
    DOES_NOT_FIT: the step does not fit a GPU that was named.
    WRONG_USAGE: a bad option, a bad value, a target that names no module.
    UNAVAILABLE: the model could not be had: not found, gated, no network, no config.
    UNSUPPORTED: the model cannot be inspected: unknown architecture, remote code not trusted, malformed config.
    INTERNAL: a defect of the inspector itself, to be reported (EX_SOFTWARE of sysexits.h).
    INTERRUPTED: Ctrl-C (128 + SIGINT).
    """

    DONE = 0
    DOES_NOT_FIT = 1
    WRONG_USAGE = 2
    UNAVAILABLE = 3
    UNSUPPORTED = 4
    INTERNAL = 70
    INTERRUPTED = 130


def choose_code_if_all_fit(fits: Iterable[bool]) -> ExitCode:
    """Return the code of an inspection: every GPU that was named has to do."""
    return ExitCode.DONE if all(fits) else ExitCode.DOES_NOT_FIT


def choose_code_if_any_fits(fits: Iterable[bool | None]) -> ExitCode:
    """Return the code of a plan or a comparison: one candidate that fits is an answer."""
    return ExitCode.DONE if any(fits) else ExitCode.DOES_NOT_FIT
