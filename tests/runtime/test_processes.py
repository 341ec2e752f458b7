"""Work in forked processes: the same results as in one, and errors that reach the caller."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from inspector.errors import InspectorError, UsageError
from inspector.runtime import processes


@pytest.mark.parametrize("cores", [1, 2])
def test_each_task_has_its_result_in_whichever_process_it_ran(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process where there is one core, in others where there are two."""
    monkeypatch.setattr(processes, "count_cores", lambda: cores)
    found = dict(processes.run_in_processes(lambda task: (task * task, os.getpid()), [3, 4, 5]))
    assert {index: value for index, (value, _) in found.items()} == {0: 9, 1: 16, 2: 25}
    assert (os.getpid() in {where for _, where in found.values()}) is (cores == 1)


@pytest.mark.parametrize("cores", [1, 2])
def test_an_error_of_one_task_ends_all_tasks(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its class and its words."""
    monkeypatch.setattr(processes, "count_cores", lambda: cores)

    def work(task: int) -> int:
        if task == 2:
            raise UsageError("two is refused.")
        return task

    with pytest.raises(UsageError, match="two is refused"):
        list(processes.run_in_processes(work, [1, 2, 3]))


def test_a_killed_process_of_a_task_raises_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of waiting for it for ever."""
    monkeypatch.setattr(processes, "count_cores", lambda: 2)

    def work(task: int) -> int:
        if task == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    with pytest.raises(InspectorError, match="was killed"):
        list(processes.run_in_processes(work, [1, 2, 3]))


def test_an_error_of_one_task_does_not_wait_for_running_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One task sleeps for an hour, the other is refused."""
    monkeypatch.setattr(processes, "count_cores", lambda: 2)

    def work(task: int) -> int:
        if task == 2:
            raise UsageError("two is refused.")
        time.sleep(3_600)
        return task

    with pytest.raises(UsageError, match="two is refused"):
        list(processes.run_in_processes(work, [1, 2]))
    assert not multiprocessing.active_children()
