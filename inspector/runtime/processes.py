"""Independent work in one process for each core, where processes can be forked.

A forked process has all that was loaded and read already, so that it costs milliseconds; one that starts anew would
import torch again. On systems without fork (and on macOS, whose libraries do not bear it), on one core, and where torch
sees a GPU, whose driver a fork loses, the work is done one after the other in this process.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, TypeVar

import torch

from inspector.errors import InspectorError
from inspector.runtime.workers import count_cores, end_with_parent

__all__ = ["count_cores", "run_in_processes"]

Task = TypeVar("Task")
Result = TypeVar("Result")

# The work of this process's children, which they have from the fork: closures cannot be sent to them.
_work: Callable[[int], Any] | None = None


def run_in_processes(work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
    """Yield the index and the result of each task as they are done; the first error ends all.

    Results travel between processes and have to be picklable; what `work` changes elsewhere is lost. Raises
    InspectorError where a process is killed.
    """
    count = min(len(tasks), count_cores())
    if count < 2 or sys.platform != "linux" or torch.cuda.device_count():
        for index, task in enumerate(tasks):
            yield index, work(task)
        return
    global _work
    _work = lambda index: work(tasks[index])  # noqa: E731  # named for the children alone
    others = multiprocessing.active_children()
    pool = futures.ProcessPoolExecutor(
        count, multiprocessing.get_context("fork"), initializer=_start_child, initargs=(os.getpid(),)
    )
    try:
        with _block_interrupts():
            indices = {pool.submit(_run_task, index): index for index in range(len(tasks))}
        for future in futures.as_completed(indices):
            yield indices[future], future.result()
    except futures.process.BrokenProcessPool as error:
        raise InspectorError(
            "a process of this command was killed, as a system short of memory does; try again with less else running."
        ) from error
    except BaseException:
        for child in multiprocessing.active_children():  # their results are no longer wanted
            if child not in others:
                child.terminate()
        raise
    finally:
        _work = None
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _block_interrupts() -> Iterator[None]:
    """Keep Ctrl-C waiting while processes are forked: a child would answer it with this process's handler."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_child(parent: int) -> None:
    """Let an interrupt end this child without a traceback, and end it when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    gc.freeze()  # what was there before is the parent's, and no garbage of this child's
    torch.set_num_threads(1)  # the threads of the parent's OpenMP are not forked: waiting for them would never end
    threading.Thread(target=end_with_parent, args=(parent,), daemon=True).start()


def _run_task(index: int) -> Any:
    """Do one task in a child."""
    assert _work is not None
    return _work(index)
