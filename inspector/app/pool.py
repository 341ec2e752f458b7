"""Worker processes that answer the questions of visitors, each within bounds of memory and of time.

A worker is one process for many questions, with an empty folder of its own and without the token and the cache of
whoever serves the page, unless these are to be used. It is ended, and another one started in its place, when a question
takes too long or, with the processes that it forked, too much memory, and when it ends by itself.

Questions are taken in the order in which they came. Of several free workers the one that knows the model takes it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from inspector.app.questions import Answer, Question, Refusal
from inspector.errors import InspectorError, one_line
from inspector.runtime.isolation import WorkerProcess, encode_request
from inspector.units import format_bytes

__all__ = ["Limits", "WorkerPool", "remove_folder"]

_WATCH_SECONDS = 0.25
_LONGEST_MESSAGE = 1000
# What would tell a worker who serves the page, or where they keep what they downloaded.
_OF_THE_OWNER = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"),
    *("TRANSFORMERS_CACHE", "HF_ASSETS_CACHE", "HUGGINGFACE_ASSETS_CACHE", "HF_XET_CACHE", "HF_MODULES_CACHE"),
)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a question may take, how many wait at most, and after how many questions a worker is replaced."""

    memory_bytes: int = 4 * 2**30
    seconds: float = 120
    waiting: int = 32
    questions: int = 500


class _Worker:
    """A place for a process, which is started when it is prepared and again when it has ended."""

    def __init__(self, limits: Limits, place: Path, with_token: bool) -> None:
        self.is_busy = True  # until it is prepared
        self.model = ""
        self.used = 0.0
        self._limits = limits
        self._place = place
        self._with_token = with_token
        self._process: WorkerProcess | None = None
        self._folder: Path | None = None
        self._count = 0
        self._why = ""
        self._is_closed = False
        self._change = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Return the number of its process."""
        return None if self._process is None else self._process.pid

    def prepare(self) -> None:
        """See to it that there is a process that waits for a question."""
        with self._change:
            process = self._process
            if process is not None and process.is_alive() and self._count < self._limits.questions:
                return
            self._end()
            if self._is_closed:
                raise InspectorError("the app is ending.")
            self._folder = Path(tempfile.mkdtemp(prefix="worker-", dir=self._place))
            environment = make_environment(os.environ, self._folder, with_token=self._with_token)
            work = self._folder / "work"
            work.mkdir()
            self._process = WorkerProcess(environment, work)
            folders = (str(self._folder), *(list_owner_folders(os.environ) if self._with_token else ()))
            request = encode_request("inspector.app.work:prepare", (self._limits.memory_bytes, folders))
            assert request is not None
            self._process.ask(request, lambda _stage: None)
            self._count, self.model = 0, ""

    def ask(self, question: Question, progress: Progress) -> Answer | Refusal:
        """Return what the process answers within its bounds, or why it does not."""
        request = encode_request("inspector.app.work:answer", (question,))
        assert request is not None
        try:
            self.prepare()
        except (InspectorError, OSError) as error:
            return Refusal(message=one_line(f"no worker could be started: {error}", _LONGEST_MESSAGE))
        assert self._process is not None
        self.model, self._count, self._why = question.model, self._count + 1, ""
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(self._process, done), daemon=True)
        watch.start()
        try:
            found = self._process.ask(request, progress)
            assert found is not None
            answer: Answer = found[0]
            return answer
        except InspectorError as error:
            return Refusal(message=one_line(self._explain_end() or str(error), _LONGEST_MESSAGE))
        except Exception as error:  # a defect of ours
            traceback.print_exception(error)
            defect = f"internal error, {type(error).__name__}: {one_line(error)}; please report it."
            return Refusal(message=one_line(defect, _LONGEST_MESSAGE))
        finally:
            done.set()
            watch.join()

    def stop(self) -> None:
        """End the process for good, also while it starts or works."""
        self._is_closed = True
        if self._process is not None:
            _kill_group(self._process)
        with self._change:
            self._end()

    def _end(self) -> None:
        """End the process, what it forked, and its folder."""
        process, folder = self._process, self._folder
        self._process = self._folder = None
        if process is not None:
            _kill_group(process)
            process.stop()
        if folder is not None:
            remove_folder(folder)

    def _explain_end(self) -> str:
        """Return why the process ended, nothing where it goes on."""
        if self._why or (self._process is not None and self._process.is_alive()):
            return self._why
        return "the process that worked on this was ended from outside; ask again."

    def _watch(self, process: WorkerProcess, done: threading.Event) -> None:
        """End a process that goes beyond its bounds before it is done."""
        begun = time.monotonic()
        while not done.wait(_WATCH_SECONDS):
            if time.monotonic() - begun > self._limits.seconds:
                self._why = (
                    f"this takes more than the {self._limits.seconds:g} seconds that a question has here; ask for a "
                    "smaller step, or install model-inspector and run the command yourself."
                )
            elif exceeds_memory(process.pid, self._limits.memory_bytes):
                self._why = (
                    f"this takes more than the {format_bytes(self._limits.memory_bytes)} of memory that a question has "
                    "here; ask for a smaller step, or install model-inspector and run the command yourself."
                )
            if self._why:
                _kill_group(process)
                return


class WorkerPool:
    """A fixed number of workers, whose folders are in `place`, and the queue before them."""

    def __init__(self, count: int, limits: Limits, place: Path, *, with_token: bool = False) -> None:
        self.limits = limits
        self._workers = [_Worker(limits, place, with_token) for _ in range(count)]
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()
        self._is_stopped = False

    def start(self) -> None:
        """Prepare all workers beside the caller."""
        for worker in self._workers:
            threading.Thread(target=self._prepare, args=(worker,), daemon=True).start()

    def stop(self) -> None:
        """End all workers."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.stop()

    @property
    def pids(self) -> list[int]:
        """Return the numbers of the processes that run."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def ask(self, question: Question, progress: Progress) -> Answer | Refusal:
        """Return what a worker answers; wait for one, unless too many wait already."""
        worker = self._take_worker(question, progress)
        if worker is None:
            return Refusal(message="too many questions wait here already; ask again in a minute.")
        try:
            return worker.ask(question, progress)
        finally:
            threading.Thread(target=self._prepare, args=(worker,), daemon=True).start()

    def _take_worker(self, question: Question, progress: Progress) -> _Worker | None:
        """Return a free worker that is now busy, None where the queue is full."""
        ticket = object()
        with self._changed:
            free = [worker for worker in self._workers if not worker.is_busy]
            if not free and len(self._queue) >= self.limits.waiting:
                return None
            self._queue.append(ticket)
            try:
                while not self._is_stopped:
                    free = [worker for worker in self._workers if not worker.is_busy]
                    place = self._queue.index(ticket)
                    if place == 0 and free:
                        knowing = [worker for worker in free if worker.model == question.model]
                        worker = min(knowing or free, key=lambda worker: worker.used)
                        worker.is_busy = True
                        return worker
                    progress("waiting for a free worker" + (f", {place} before you" if place else ""))
                    self._changed.wait()
                return None
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _prepare(self, worker: _Worker) -> None:
        """Make a worker ready for the next question, and say so."""
        try:
            worker.prepare()
        except (InspectorError, OSError):  # it is tried again with the next question, which then says why
            pass
        finally:
            with self._changed:
                worker.is_busy, worker.used = False, time.monotonic()
                self._changed.notify_all()


def make_environment(surroundings: Mapping[str, str], folder: Path, *, with_token: bool) -> dict[str, str]:
    """Return the environment of a worker: with a cache of its own in `folder` and nobody's token, unless asked for."""
    environment = {**surroundings, "TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("INSPECTOR_DEBUG", None)
    if with_token:
        return environment
    for name in _OF_THE_OWNER:
        environment.pop(name, None)
    return {**environment, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}


def remove_folder(folder: Path) -> None:
    """Remove a folder as far as it can be, by whole paths: a confined process does not see where others lead."""
    for root, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            path = Path(root, name)
            with contextlib.suppress(OSError):
                path.rmdir() if name in folders and not path.is_symlink() else path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def list_owner_folders(surroundings: Mapping[str, str]) -> Iterable[str]:
    """Return where the token and the cache of whoever serves the page lie."""
    home = surroundings.get("HF_HOME") or str(
        Path(surroundings.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    )
    caches = (surroundings.get(name) for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ASSETS_CACHE"))
    return (home, *(cache for cache in caches if cache))


def exceeds_memory(pid: int, most_bytes: int) -> bool:
    """Tell whether a process and its children hold more memory, what several share counted in parts.

    Counted whole, which is cheaper to ask for, it is no less (proc(5): statm and smaps_rollup).
    """
    processes = (pid, *_list_children(pid))
    return sum(map(_read_resident, processes)) > most_bytes and sum(map(_read_proportional, processes)) > most_bytes


def _read_resident(pid: int) -> int:
    """Return the resident bytes of a process, 0 where they are not known."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _read_proportional(pid: int) -> int:
    """Return the same with what it shares with others in parts."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return 0


def _list_children(pid: int) -> list[int]:
    """Return the children of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _kill_group(process: WorkerProcess) -> None:
    """End a process and those that it forked, which are in its group."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(OSError):  # none is left
            os.killpg(process.pid, signal.SIGKILL)
