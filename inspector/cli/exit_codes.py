"""Every exit code of the command, and the rules that choose one: the only place that decides them.

An error carries its own (`inspector.errors`). A reader that leaves before the end, as `head` does, has seen enough: it
changes no code, so that 1 means one thing alone.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from inspector.records.fit import Fit

__all__ = ["ExitCode", "choose_code_if_all_fit", "choose_code_if_any_fits"]


class ExitCode(enum.IntEnum):
    """What the command exits with.

    DONE: the work is done and, where a GPU was named, the step fits it.
    DOES_NOT_FIT: the step does not fit a GPU that was named.
    WRONG_USAGE: a bad option, a bad value, a target that names no module.
    UNAVAILABLE: the model could not be had: not found, gated, no network, no config.
    UNSUPPORTED: the model cannot be inspected: unknown architecture, remote code not trusted, malformed config; or a
    GPU was named and the run could not be traced, so that nothing says whether it fits.
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


def choose_code_if_all_fit(outcomes: Iterable[Fit]) -> ExitCode:
    """Return the code of an inspection: every GPU that was named has to do, and silence is no yes."""
    found = set(outcomes)
    if Fit.NO in found:
        return ExitCode.DOES_NOT_FIT
    return ExitCode.UNSUPPORTED if Fit.UNKNOWN in found else ExitCode.DONE


def choose_code_if_any_fits(outcomes: Iterable[Fit | None]) -> ExitCode:
    """Return the code of a plan or a comparison: one candidate that fits is an answer."""
    found = set(outcomes)
    if found & {Fit.YES, Fit.TIGHT}:
        return ExitCode.DONE
    return ExitCode.UNSUPPORTED if Fit.UNKNOWN in found else ExitCode.DOES_NOT_FIT
