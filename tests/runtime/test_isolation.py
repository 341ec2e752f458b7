"""Beside other threads the work runs in a process of its own, as if it ran in this one."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import inspector
from inspector.errors import InspectorError, UsageError
from inspector.records.recipe import Recipe
from inspector.runtime import isolation
from inspector.runtime.isolation import IN_PROCESS, run_isolated
from tests.cli.running import SMALL, run_process

INSPECT = f"""
def inspect():
    peft = {{"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}}
    recipe = inspector.Recipe(seq_len=64, mixed_precision="bf16")
    return inspector.inspect("{SMALL}", peft=peft, recipe=recipe, gpu="t4", advice=False, offline=True).to_dict()
"""
HOST = f"""
import json, sys, threading
import torch
import inspector

def work():
    layer = torch.nn.Linear(4, 4)
    while not done.is_set():
        assert layer(torch.ones(2, 4)).dtype is torch.float32
        print("line", len(printed))
        printed.append(1)
        done.wait(0.001)

def host():
    try:
        work()
    except Exception as error:
        failures.append(repr(error))

{INSPECT}

done, printed, failures = threading.Event(), [], []
thread = threading.Thread(target=host)
thread.start()
reports = [inspect() for _ in range(2)]
done.set()
thread.join()
json.dump({{"reports": reports, "printed": len(printed), "failures": failures}}, sys.stderr)
"""


def test_other_threads_of_a_process_compute_and_print_undisturbed_and_its_reports_are_those_of_one_thread() -> None:
    """A thread of float32 forwards and prints never fails and loses no line; `top_modules` are equal too."""
    ran = run_process(sys.executable, "-c", HOST, environment={IN_PROCESS: ""})
    assert ran.code == 0, ran.err
    told = json.loads(ran.err)
    assert ran.out.splitlines() == [f"line {number}" for number in range(told["printed"])]
    assert told["failures"] == []
    assert told["printed"] > 10
    names: dict[str, Any] = {"inspector": inspector}
    exec(INSPECT, names)
    alone = json.loads(json.dumps(names["inspect"]()))
    assert told["reports"] == [alone, alone]
    assert alone["training"]["top_modules"]


# --- what functions of the worker do, called by their names -----------------------------------------------------------


def say_where(word: Any, progress: isolation.Progress) -> tuple[Any, int, str | None]:
    """Tell a stage, and return the argument, the process and a variable of the environment."""
    progress("working")
    print("nobody reads this")
    return word, os.getpid(), os.environ.get("INSPECTOR_TEST")


def say_what_it_sees(_progress: isolation.Progress) -> tuple[int, str | None]:
    """Return the process, and which GPUs it may see."""
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


def refuse(_progress: isolation.Progress) -> None:
    """Raise an error that is meant."""
    raise UsageError("no; drop it.")


def fail(_progress: isolation.Progress) -> None:
    """Raise an error that cannot be sent."""

    class Local(Exception):  # noqa: N818  # only its type matters
        pass

    raise Local("a defect")


def die(_progress: isolation.Progress) -> None:
    """End the process as the kernel does that is short of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait(_progress: isolation.Progress) -> None:
    """Work for an hour, after saying so."""
    _progress("waiting")
    time.sleep(3_600)


def call(name: str, *arguments: Any, progress: isolation.Progress = lambda _stage: None) -> Any:
    return run_isolated(f"{__name__}:{name}", *arguments, progress=progress)


@pytest.fixture
def company(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have another thread in this process, and the worker that this asks for."""
    monkeypatch.delenv(IN_PROCESS, raising=False)
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        isolation.stop_worker()


def test_a_process_of_one_thread_starts_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nobody to disturb."""
    monkeypatch.delenv(IN_PROCESS, raising=False)
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # pytest-xdist has threads
    assert call("say_where", "x")[1] == os.getpid()


@pytest.mark.usefixtures("company")
def test_a_worker_answers_several_calls_and_reports_progress_to_the_caller(capfd: pytest.CaptureFixture[str]) -> None:
    """Two calls are answered by one process, and what it prints goes nowhere."""
    stages: list[str] = []
    first = call("say_where", Recipe(seq_len=7), progress=stages.append)
    second = call("say_where", "x", progress=stages.append)
    assert (first[0], second[0], stages) == (Recipe(seq_len=7), "x", ["working", "working"])
    assert first[1] == second[1] != os.getpid()
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("company")
def test_another_environment_or_working_directory_starts_another_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Libraries read both when they are imported."""
    processes = [call("say_where", "x")[1]]
    monkeypatch.setenv("INSPECTOR_TEST", "set")
    _, process, seen = call("say_where", "x")
    assert seen == "set"
    processes.append(process)
    monkeypatch.chdir(tmp_path)
    processes.append(call("say_where", "x")[1])
    assert len(set(processes)) == 3


@pytest.mark.usefixtures("company")
def test_what_forks_runs_in_a_worker_without_gpus_where_this_process_sees_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its children would not have the driver; other work stays here, and so does all where that is asked for."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    forked = functools.partial(run_isolated, f"{__name__}:say_what_it_sees", forks=True)
    assert forked()[0] == os.getpid()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert run_isolated(f"{__name__}:say_what_it_sees")[0] == os.getpid()
    where, visible = forked()
    assert where != os.getpid()
    assert visible == ""
    monkeypatch.setenv(IN_PROCESS, "1")
    assert forked()[0] == os.getpid()


@pytest.mark.usefixtures("company")
def test_errors_of_a_worker_keep_their_class_and_the_traceback_of_the_worker() -> None:
    """Those that are meant keep their class; a defect that cannot be sent keeps its words."""
    with pytest.raises(UsageError, match=r"^no; drop it\.$") as caught:
        call("refuse")
    assert "in refuse" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match=r"^Local: a defect$"):
        call("fail")


@pytest.mark.usefixtures("company")
def test_the_death_of_a_worker_is_one_sentence_and_the_next_call_starts_another_worker() -> None:
    """Its death is not waited for ever."""
    with pytest.raises(InspectorError, match="was killed by signal 9") as caught:
        call("die")
    assert "\n" not in str(caught.value)
    assert call("say_where", "x")[0] == "x"


@pytest.mark.usefixtures("company")
def test_an_interrupt_ends_the_worker() -> None:
    """What it was doing is of no more use."""

    def interrupt(_stage: str) -> None:
        raise KeyboardInterrupt

    process = call("say_where", "x")[1]
    with pytest.raises(KeyboardInterrupt):
        call("wait", progress=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert call("say_where", "x")[1] != process


class OfThisProcess:
    """A class that another process would not have."""


OfThisProcess.__module__ = "__main__"


@pytest.mark.usefixtures("company")
@pytest.mark.parametrize("kind", ["module", "tensor", "class", "unpicklable", "unreadable"])
def test_arguments_that_cannot_be_sent_to_a_worker_are_worked_on_in_the_calling_process(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live models, classes of a script, and what the worker cannot read."""
    import torch

    module = type(sys)("of_this_process_alone")
    module.Value = type("Value", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    values = {
        "module": lambda: torch.nn.Linear(1, 1, device="meta"),
        "tensor": lambda: torch.zeros(1),
        "class": OfThisProcess,
        "unpicklable": threading.Lock,
        "unreadable": module.Value,
    }
    value = values[kind]()
    assert call("say_where", value)[:2] == (value, os.getpid())


ENDING = """
import os, sys, threading
from inspector.runtime import isolation
threading.Thread(target=threading.Event().wait, daemon=True).start()
isolation.run_isolated("tests.runtime.test_isolation:say_where", "x")
print(isolation._worker._process.pid, flush=True)
if sys.argv[1] == "killed":
    threading.Timer(1, lambda: os.kill(os.getpid(), 9)).start()
    isolation.run_isolated("tests.runtime.test_isolation:wait")
"""


@pytest.mark.parametrize("how", ["returns", "killed"])
def test_a_worker_ends_with_the_process_that_started_it(how: str) -> None:
    """Idle or at work."""
    root = str(Path(__file__).parents[2])
    ran = run_process(sys.executable, "-c", ENDING, how, environment={IN_PROCESS: "", "PYTHONPATH": root})
    assert (ran.code, ran.err) == (0 if how == "returns" else -signal.SIGKILL, "")
    for _ in range(100):
        try:
            os.kill(int(ran.out), 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the worker was left behind")
