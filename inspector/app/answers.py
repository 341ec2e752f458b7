"""Answers that were given, by the question: the least recently used ones go where they take too much memory.

A question has all that its answer depends on but for what the Hub holds, which moves: so an answer is kept for some
minutes. Two visitors who ask the same at the same time wait for one answer.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from inspector.app.questions import Answer, Question, Refusal

__all__ = ["KeptAnswers"]


class KeptAnswers:
    """The answers of one process; refusals are not kept."""

    def __init__(self, *, most_bytes: int = 256 * 2**20, fresh_seconds: float = 600) -> None:
        self._most_bytes = most_bytes
        self._fresh_seconds = fresh_seconds
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, Answer]] = OrderedDict()
        self._bytes = 0
        self._asked: dict[str, Future[Answer | Refusal]] = {}

    def find(self, key: str) -> Answer | None:
        """Return the answer to the question of a key, None where there is none or it is old."""
        with self._lock:
            return self._find(key)

    def find_page(self, key: str) -> bytes | None:
        """Return the page of an answer, however old: whoever was answered just now looks at it."""
        with self._lock:
            known = self._kept.get(key)
            return None if known is None else known[1].page

    def ask(self, question: Question, ask: Callable[[Question], Answer | Refusal]) -> Answer | Refusal:
        """Return the answer that is kept, the one that somebody is waiting for, or that of `ask`."""
        key = question.key
        with self._lock:
            known = self._find(key)
            if known is not None:
                return known
            others = self._asked.get(key)
            if others is None:
                own: Future[Answer | Refusal] = Future()
                self._asked[key] = own
        if others is not None:
            return others.result()
        answer: Answer | Refusal = Refusal(message="the question was given up; ask again.")
        try:
            answer = ask(question)
        finally:
            with self._lock:
                del self._asked[key]
                if isinstance(answer, Answer):
                    self._keep(key, answer)
            own.set_result(answer)
        return answer

    def _find(self, key: str) -> Answer | None:
        """Return a fresh answer, now the most recently used one."""
        known = self._kept.get(key)
        if known is None:
            return None
        made, answer = known
        if time.monotonic() - made > self._fresh_seconds:
            return None
        self._kept.move_to_end(key)
        return answer

    def _keep(self, key: str, answer: Answer) -> None:
        """Keep an answer in the place of an older one, and as many others as there is room for."""
        if key in self._kept:
            self._drop(key)
        self._kept[key] = time.monotonic(), answer
        self._bytes += len(answer.page)
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        """Forget an answer."""
        self._bytes -= len(self._kept.pop(key)[1].page)
