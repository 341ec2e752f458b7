"""What every test relies on, wherever it is started.

Under `nohup ... &` or a runner that ignores SIGINT, a process ignores it from its start, and so does every process that
it starts: tests of interrupts would wait for what never comes. A handler that does nothing keeps this process as deaf
as it was asked to be, and is none for a program that it starts: there the default is back (POSIX, `execve`).
"""

from __future__ import annotations

import collections
import gc
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.extrapolate.sampled import Sample


def _do_nothing(_signal: int, _frame: object) -> None:
    """Stay as deaf to an interrupt as the process was started."""


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, _do_nothing)
# pytest-xdist's processes have threads of their own, for which the Python API would start a worker process for each.
os.environ.setdefault("INSPECTOR_IN_PROCESS", "1")
# Steps on the CPU are small: more threads of OpenMP would wait for each other and for those of pytest-xdist's other
# processes, busily. Read when torch is loaded, by processes that tests start, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests of tracing trace: the user's cache is neither read nor written (`shared_answers` has one of the run's own).
os.environ["INSPECTOR_CACHE"] = "off"


@pytest.fixture(scope="session")
def sample_of_extrapolations() -> Sample | None:
    """Return what holds some of the tapes that the tests extrapolate, None where the environment asks for none."""
    if not os.environ.get("INSPECTOR_CHECK_EXTRAPOLATION"):
        return None
    from tests.extrapolate.sampled import Sample, read_variable  # with it comes what is under test

    every = read_variable()
    if every is None:
        return None
    sample = Sample(every)
    sample.install()
    return sample


@pytest.fixture(autouse=True)
def _hold_some_extrapolations(
    request: pytest.FixtureRequest, sample_of_extrapolations: Sample | None
) -> Iterator[None]:
    """Hold the tapes that a test gave to the sample, but where it replaced something."""
    yield
    if sample_of_extrapolations is not None and "monkeypatch" in request.fixturenames:
        sample_of_extrapolations.drop()
    elif sample_of_extrapolations is not None:
        sample_of_extrapolations.hold_all()


@pytest.fixture
def shared_answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let a test take the answers and traces that other tests of this run have worked out, and keep its own for them.

    For tests of what is said and shown of figures, in this process and in those that it starts. It is the cache of
    users in a folder of this run: who asks first works it out. Where something is replaced it stays off.
    """
    if "monkeypatch" in request.fixturenames:
        yield
        return
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # a process of pytest-xdist: the folder above is that of all of them
        folder = folder.parent
    os.environ["INSPECTOR_CACHE"] = str(folder / "answers")
    try:
        yield
    finally:
        os.environ["INSPECTOR_CACHE"] = "off"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out all but one in n of the cases of a test that is marked `one_of(n)`, but with INSPECTOR_TRUTH=all.

    The first case is always among them: one that is named on the command line runs.
    """
    if os.environ.get("INSPECTOR_TRUTH") == "all":
        return
    seen: collections.Counter[str] = collections.Counter()
    chosen: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        mark = item.get_closest_marker("one_of")
        test = item.nodeid.partition("[")[0]
        (left_out if mark is not None and seen[test] % mark.args[0] else chosen).append(item)
        seen[test] += 1
    items[:] = chosen
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """Keep the libraries' modules out of every later garbage collection: a fifth of the time of a run."""
    gc.collect()
    gc.freeze()
