"""Cases in forked children with a limit of processor time each, so that a hang or a crash ends one case alone."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["run_group"]

Case = dict[str, Any]
Row = dict[str, Any]
# How much longer than a case's processor time a child may take that answers nothing.
_PATIENCE = 10
_SECONDS_TO_SPARE = 60


class CaseTimeoutError(BaseException):
    """A case has used its time."""


def run_group(
    cases: list[Case], judge: Callable[[Case], Iterator[Row]], seconds: float, finish: Callable[[Case, Row], None]
) -> None:
    """Run `judge` for each case in one child after the other; `finish` takes what it yields, joined.

    What a case had yielded stays where it is ended.
    """
    while cases:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _work(cases, judge, seconds, write)
        os.close(write)
        rows, done = _listen(read, seconds, child)
        os.close(read)
        _, status = os.waitpid(child, 0)
        for index in done:
            finish(cases[index], rows[index])
        rest = [index for index in range(len(cases)) if index not in done]
        if rest:  # the one that ended the child
            reason = f"it ends its process ({os.waitstatus_to_exitcode(status)})"
            finish(cases[rest[0]], {**rows.get(rest[0], {}), "traced": False, "reason": reason})
        cases = [cases[index] for index in rest[1:]]


def _work(cases: list[Case], judge: Callable[[Case], Iterator[Row]], seconds: float, write: int) -> None:
    """Judge the cases in a child, and end it."""
    quiet = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(quiet, number)
    signal.signal(signal.SIGPROF, _give_up)
    with os.fdopen(write, "w") as out:
        for index, case in enumerate(cases):
            begun = sum(os.times()[:2])
            try:
                signal.setitimer(signal.ITIMER_PROF, seconds)
                for part in judge(case):
                    print(json.dumps([index, part]), file=out, flush=True)
            except CaseTimeoutError:
                print(json.dumps([index, {"traced": False, "reason": f"more than {seconds:g} s"}]), file=out)
            except Exception as error:
                reason = f"unexpected {type(error).__name__}: {error}"[:300]
                print(json.dumps([index, {"traced": False, "reason": reason}]), file=out)
            signal.setitimer(signal.ITIMER_PROF, 0)
            used = {"seconds": round(sum(os.times()[:2]) - begun, 1)}
            print(json.dumps([index, used]), json.dumps([index, None]), sep="\n", file=out, flush=True)
    os._exit(0)


def _give_up(_signal: int, _frame: Any) -> None:
    raise CaseTimeoutError


def _listen(read: int, seconds: float, child: int) -> tuple[dict[int, Row], list[int]]:
    """Return what a child says of each case, and which ones it is done with."""
    rows: dict[int, Row] = {}
    done: list[int] = []
    buffer = b""
    while True:
        if not select.select([read], [], [], seconds * _PATIENCE + _SECONDS_TO_SPARE)[0]:
            os.kill(child, signal.SIGKILL)
            return rows, done
        data = os.read(read, 1 << 16)
        if not data:
            return rows, done
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            index, part = json.loads(line)
            if part is None:
                done.append(index)
            else:
                rows.setdefault(index, {}).update(part)
