"""Independent work in one process for each core, where processes can be forked.

A forked process has all that was loaded and read already, so that each costs milliseconds; one that starts anew would
import torch again. On systems without fork (and on macOS, whose libraries do not bear it), on one core, and in a
process that uses CUDA, which a fork loses, the work is done one after the other in this process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

__all__ = ["each"]

Task = TypeVar("Task")
Result = TypeVar("Result")

# The work of this process's children, which they have from the fork: functions of functions cannot be sent to them.
_work: Callable[[int], object] | None = None


def each(work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
    """Yield the index and the result of each task as they are done; an error of one ends all.

    Results travel between processes and have to be picklable; what `work` changes elsewhere is lost.
    """
    count = min(len(tasks), _cores())
    if count < 2 or sys.platform != "linux" or torch.cuda.is_initialized():
        for index, task in enumerate(tasks):
            yield index, work(task)
        return
    global _work
    _work = lambda index: (index, work(tasks[index]))  # noqa: E731  # named for the children alone
    try:
        # Leaving the block, by an error or an interrupt too, ends the processes.
        with multiprocessing.get_context("fork").Pool(count, _leave_interrupts_to_the_parent) as pool:
            yield from pool.imap_unordered(_done, range(len(tasks)))
    finally:
        _work = None


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _leave_interrupts_to_the_parent() -> None:
    """Let Ctrl-C reach the parent alone, which then ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _done(index: int) -> object:
    """Do one task in a child."""
    assert _work is not None
    return _work(index)
