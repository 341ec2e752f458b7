"""Tasks in processes that none of them can break."""

from __future__ import annotations

import os
import signal

import pytest

from inspector.runtime import workers
from inspector.runtime.workers import Killed, work_in_processes


def _double(number: int) -> tuple[int, int]:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 100:
        raise ValueError("a hundred")
    return 2 * number, os.getpid()


@pytest.mark.parametrize("count", [1, 3])
def test_each_task_has_a_result_and_a_killed_process_takes_one_with_it(count: int) -> None:
    """The others are worked on by those that are left and by a new one."""
    found = dict(work_in_processes(_double, range(8), count))
    assert {task: result[0] for task, result in found.items() if task != 3} == {n: 2 * n for n in range(8) if n != 3}
    assert found[3] == Killed(code=-signal.SIGKILL)
    assert os.getpid() not in {result[1] for task, result in found.items() if task != 3}


def test_a_process_is_replaced_after_so_many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it keeps goes with it."""
    monkeypatch.setattr(workers, "MOST_TASKS", 2)
    found = dict(work_in_processes(_double, (0, 1, 2, 4, 5), 1))
    processes = [found[task][1] for task in (0, 1, 2, 4, 5)]
    assert processes[0] == processes[1] != processes[2] == processes[3] != processes[4]


def test_no_more_tasks_are_taken_than_are_worked_on() -> None:
    """A list of a million names is read as it is needed."""
    taken: list[int] = []
    numbers = (taken.append(number) or number for number in (0, 1, 2, 4, 5, 6))  # type: ignore[func-returns-value]
    results = work_in_processes(_double, numbers, 2)
    next(results)
    assert len(taken) <= 2
    results.close()


def test_what_a_task_raises_ends_all() -> None:
    """It is for whoever wrote the work."""
    with pytest.raises(ValueError, match="a hundred"):
        list(work_in_processes(_double, (0, 100, 1), 1))
