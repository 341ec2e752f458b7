"""Many tasks in a process for each core, each of which takes what none of them may break: time, memory, a crash.

A process works on one task after the other and is replaced after `MOST_TASKS`, so that what libraries keep does not
grow with the number of tasks. One that is killed takes its task with it and no other. On Linux processes are forked and
have what was loaded before; elsewhere each starts anew.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

__all__ = ["MOST_TASKS", "Killed", "count_cores", "end_with_parent", "work_in_processes"]

# A model leaves some megabytes: compiled patterns, classes of its module, what torch notes of its operations.
MOST_TASKS = 8

Task = TypeVar("Task")


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """In the place of a result: the process ended before it was there. `code` is that of `multiprocessing`."""

    code: int | None


@dataclass(slots=True)
class _Worker:
    """A process with the end of its pipe that is here, and what it works on."""

    process: BaseProcess
    pipe: Connection
    tasks_left: int
    task: Any = None
    is_busy: bool = False


def work_in_processes(
    work: Callable[[Task], Any], tasks: Iterable[Task], count: int
) -> Generator[tuple[Task, Any], None, None]:
    """Yield each task with its result, or with `Killed`, as it is there; no more tasks are taken than are worked on.

    `work` is a function of a module; tasks and results can be pickled. What it raises ends all.
    """
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    remaining = iter(tasks)
    workers: list[_Worker] = []
    try:
        while True:
            workers = _give_work(workers, remaining, count, lambda: _start(context, work))
            busy = [worker for worker in workers if worker.is_busy]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in ready]:
                task, worker.is_busy = worker.task, False
                try:
                    result = worker.pipe.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    worker.tasks_left = 0
                    result = Killed(code=worker.process.exitcode)
                if isinstance(result, BaseException):
                    raise result
                yield task, result
    finally:
        for worker in workers:
            _end(worker)


def _give_work(
    workers: list[_Worker], remaining: Iterator[Any], count: int, start: Callable[[], _Worker]
) -> list[_Worker]:
    """Return the workers once each has a task or none is left; those that had enough of them are replaced."""
    kept = []
    for worker in workers:
        if worker.is_busy or worker.tasks_left > 0:
            kept.append(worker)
        else:
            _end(worker)
    for index in range(count):
        if index < len(kept) and kept[index].is_busy:
            continue
        try:
            task = next(remaining)
        except StopIteration:
            break
        if index == len(kept):
            kept.append(start())
        worker = kept[index]
        worker.task, worker.is_busy = task, True
        worker.tasks_left -= 1
        with contextlib.suppress(OSError):  # it is gone already, which shows when its result is read
            worker.pipe.send(task)
    return kept


def _start(context: Any, work: Callable[[Any], Any]) -> _Worker:
    """Start a process."""
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(work, there, os.getpid()), daemon=True)
    process.start()
    there.close()
    return _Worker(process=process, pipe=here, tasks_left=MOST_TASKS)


def _end(worker: _Worker) -> None:
    """End a process that has nothing to do, or whose result nobody waits for."""
    worker.pipe.close()
    worker.process.terminate()
    worker.process.join()


def _serve(work: Callable[[Any], Any], pipe: Connection, parent: int) -> None:
    """Do tasks until the pipe is closed; in a child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it, and ends this one
    threading.Thread(target=end_with_parent, args=(parent,), daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            result = work(task)
        except Exception as error:
            result = error
        pipe.send(result)


def end_with_parent(parent: int) -> None:
    """Poll for the parent and end this process when it is gone."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
