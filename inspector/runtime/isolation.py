"""Work in a process of its own where this one has other threads, which the effects of the work would reach.

A trace sets things of the whole process for its time: torch's default dtype, hooks on all modules, standard output,
rules in the dispatcher (the list is in `inspector.runtime`). A notebook has other threads always. There the work runs
in one worker process, which is started once and waits for more, so that torch is imported once; it is started anew
where the environment or the working directory is another one by then, and it ends with this process.

No GPU is used there, and the worker sees none: a driver that was begun to be used does not survive in the processes
that a plan forks. So a plan goes there, too, where this process has loaded torch and sees a GPU.

Requests and reports are pickled over the pipes of the worker, which nothing else writes to. What cannot be sent (a live
model, a class of `__main__` or of a repository) is worked on in this process, and then its other threads see the
effects. INSPECTOR_IN_PROCESS=1 asks for that in any case.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inspector.errors import InspectorError

__all__ = ["IN_PROCESS", "WorkerProcess", "encode_request", "resolve_function", "run_isolated"]

# The environment variable that keeps all work in this process.
IN_PROCESS = "INSPECTOR_IN_PROCESS"

Progress = Callable[[str], None]


def run_isolated(
    function_path: str, *arguments: Any, progress: Progress = lambda _stage: None, forks: bool = False
) -> Any:
    """Return `function(*arguments, progress)`, run in a worker process where this process has other threads.

    The same where it `forks` and this process sees a GPU. `function_path` is "module:name". `progress` is called in
    this process. What the function raises is raised here, its
    traceback in the worker as the cause; a worker that dies raises InspectorError. An interrupt ends the worker.
    """
    request = encode_request(function_path, arguments) if _has_company() or (forks and _sees_gpu()) else None
    if request is None:
        return resolve_function(function_path)(*arguments, progress)
    with _worker_lock:
        answer = _get_worker().ask(request, progress)
    if answer is None:  # the worker cannot read the request: what it names is known to this process alone
        return resolve_function(function_path)(*arguments, progress)
    return answer[0]


def resolve_function(function_path: str) -> Callable[..., Any]:
    """Return the function that "module:name" names; imported by name, since it lies above this layer."""
    module, _, name = function_path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _has_company() -> bool:
    """Tell whether other threads of this process would see what the work does to it."""
    return threading.active_count() > 1 and _may_start_worker()


def _sees_gpu() -> bool:
    """Tell whether processes that are forked off this one would not have its GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.device_count() > 0 and _may_start_worker()


def _may_start_worker() -> bool:
    """Tell whether a worker can be started, and nobody asked for none."""
    return bool(sys.executable) and os.environ.get(IN_PROCESS) != "1"


# --- what is sent -----------------------------------------------------------------------------------------------------


class _Unsendable(Exception):  # noqa: N818  # says that something is so, and is caught here
    """A value means something in this process alone."""


class _Pickler(pickle.Pickler):
    """A pickler that refuses what another process would not have, or would not have the same."""

    def reducer_override(self, value: Any) -> Any:
        """Refuse live models and tensors, and code that is not found by its name in another process."""
        if isinstance(value, type) or callable(value):
            module = getattr(value, "__module__", None) or ""
            if module in ("__main__", "__mp_main__") or module.partition(".")[0] == "transformers_modules":
                raise _Unsendable
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, (torch.nn.Module, torch.Tensor)):
            raise _Unsendable
        return NotImplemented


def encode_request(function_path: str, arguments: tuple[Any, ...]) -> bytes | None:
    """Return the bytes of a request, None where its arguments cannot be sent."""
    stream = io.BytesIO()
    try:
        _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump((function_path, arguments))
    except _Unsendable:
        return None
    except Exception:  # classes of user code can raise anything when they are pickled
        return None
    return stream.getvalue()


# --- the worker -------------------------------------------------------------------------------------------------------


class WorkerProcess:
    """A process that works on one request after the other, here or in an environment and a directory of its own."""

    def __init__(self, environment: Mapping[str, str] | None = None, directory: Path | None = None) -> None:
        self.surroundings = _read_surroundings()
        self._environment = environment
        root = str(Path(__file__).parents[2])
        # The worker's own first imports: the package from where this process has it, the rest from the standard library
        # and not from a file of the working directory. It then takes this process's environment and path.
        around = os.environ if environment is None else environment
        path = os.pathsep.join(filter(None, (root, around.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            (sys.executable, "-m", "inspector.runtime.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**around, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            cwd=directory,
            start_new_session=True,  # a terminal's Ctrl-C is for this process, which then ends the worker
        )

    @property
    def pid(self) -> int:
        """Return the number of the process, which is that of its group, too."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process.poll() is None

    def ask(self, request: bytes, progress: Progress) -> tuple[Any] | None:
        """Return the result of a request in a tuple, None where the worker cannot read it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            environment = dict(os.environ if self._environment is None else self._environment)
            environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # whose warnings nothing in Python silences
            pickle.dump((environment, sys.path, request), self._process.stdin)
            self._process.stdin.flush()
            while True:
                kind, *values = pickle.load(self._process.stdout)  # noqa: S301  # our own process at the other end
                if kind != "progress":
                    break
                progress(*values)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)  # its pipes are closed, and it is about to end
            self.stop()
            raise InspectorError(
                f"the process that did the work {_describe_end(self._process.returncode)}; try again with less else "
                f"running, or set {IN_PROCESS}=1 to work in this process."
            ) from error
        except BaseException:  # an interrupt, or an error of `progress`: its answer would come too late to be read
            self.stop()
            raise
        if kind == "unreadable":
            return None
        if kind == "error":
            raised, trace = values
            raise raised from WorkerTraceback(trace)
        return (values[0],)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # what was to be sent has no reader
                stream.close()
        self._process.wait()


class WorkerTraceback(Exception):  # noqa: N818  # the cause of an error, as it read in the worker
    """Where an error was raised in the worker."""

    def __str__(self) -> str:
        """Show the traceback."""
        return f"\n{self.args[0]}"


def _describe_end(code: int) -> str:
    """Return how a process ended."""
    return f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}, as a lack of memory does"


def _read_surroundings() -> tuple[dict[str, str], Path | None]:
    """Return what libraries read when they are imported: the environment and the working directory."""
    try:
        return dict(os.environ), Path.cwd()
    except FileNotFoundError:
        return dict(os.environ), None


_worker: WorkerProcess | None = None
_worker_lock = threading.Lock()


def _get_worker() -> WorkerProcess:
    """Return the running worker, a new one where there is none or it runs in other surroundings."""
    global _worker
    if _worker is not None and (not _worker.is_alive() or _worker.surroundings != _read_surroundings()):
        stop_worker()
    if _worker is None:
        _worker = WorkerProcess({**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    return _worker


def stop_worker() -> None:
    """End the worker, if there is one."""
    global _worker
    worker, _worker = _worker, None
    if worker is not None:
        worker.stop()


def _forget_worker() -> None:
    """Leave the worker to the process that this one was forked from."""
    global _worker, _worker_lock
    _worker, _worker_lock = None, threading.Lock()


atexit.register(stop_worker)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_worker)
