"""The worker process of `inspector.runtime.isolation`: `python -m inspector.runtime.worker`, for no one else.

Requests come in on standard input and answers go out on standard output, pickled by the process that started this one.
Both are taken away from whatever else reads or prints here. One thread reads: when the pipe closes, the parent is gone,
and this process ends at once, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from typing import Any, BinaryIO

from inspector.runtime.isolation import resolve_function

__all__ = ["main"]


def main() -> None:
    """Answer requests until the parent is gone."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends this process
    requests, answers = _take_over(0, "rb"), _take_over(1, "wb")
    received: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, received), daemon=True).start()
    environment, path, request = received.get()
    os.environ.clear()
    os.environ.update(environment)  # another one starts another worker
    while True:
        sys.path[:] = path
        _send(answers, *_answer(request, answers))
        _, path, request = received.get()


def _take_over(descriptor: int, mode: str) -> BinaryIO:
    """Return a stream on what standard input or output is, and have that lead nowhere from here on."""
    stream = os.fdopen(os.dup(descriptor), mode)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return stream  # type: ignore[return-value]  # both modes are binary


def _read(requests: BinaryIO, received: queue.SimpleQueue[Any]) -> None:
    """Hand requests on; end this process when there will be no more."""
    try:
        while True:
            received.put(pickle.load(requests))  # noqa: S301  # our own parent at the other end
    except BaseException:
        os._exit(0)


def _answer(request: bytes, answers: BinaryIO) -> tuple[Any, ...]:
    """Do the work of a request and return the answer."""
    try:
        function_path, arguments = pickle.loads(request)  # noqa: S301  # as above
    except Exception:  # it names code that is found in the parent alone
        return ("unreadable",)
    try:
        return ("result", resolve_function(function_path)(*arguments, lambda stage: _send(answers, "progress", stage)))
    except BaseException as error:
        return ("error", _make_sendable(error), traceback.format_exc())


def _make_sendable(error: BaseException) -> BaseException:
    """Return an error as it is where it survives being sent, else one that says the same."""
    try:
        copied = pickle.loads(pickle.dumps(error))  # noqa: S301  # made in this line
    except Exception:  # error classes of user code can raise anything when they are pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error if type(copied) is type(error) else RuntimeError(f"{type(error).__name__}: {error}")


def _send(answers: BinaryIO, *answer: Any) -> None:
    """Send an answer, whole or not at all."""
    answers.write(pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL))
    answers.flush()


if __name__ == "__main__":
    main()
