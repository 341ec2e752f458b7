"""Questions in, stages and an answer out: kept answers first, then the workers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from inspector.app.answers import KeptAnswers
from inspector.app.pool import WorkerPool
from inspector.app.questions import Answer, Question, Refusal

__all__ = ["Service", "Stage"]

# How often a visitor is told how long it has taken.
_TELL_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What is being done, and since when."""

    words: str
    seconds: float


class Service:
    """What all visitors share."""

    def __init__(self, pool: WorkerPool, answers: KeptAnswers) -> None:
        self.pool = pool
        self.answers = answers

    def ask(self, question: Question) -> Iterator[Stage | Answer | Refusal]:
        """Yield what is being done, and last the answer or why there is none."""
        known = self.answers.find(question.key)
        if known is not None:
            yield known
            return
        begun, words = time.monotonic(), "starting"
        heard: queue.SimpleQueue[str | Answer | Refusal] = queue.SimpleQueue()

        def work() -> None:
            try:
                heard.put(self.answers.ask(question, lambda asked: self.pool.ask(asked, heard.put)))
            except BaseException as error:  # whoever asked would wait for ever
                heard.put(Refusal(message=f"internal error, {type(error).__name__}; ask again."))
                raise

        threading.Thread(target=work, daemon=True).start()
        while True:
            try:
                item = heard.get(timeout=_TELL_SECONDS)
            except queue.Empty:
                item = words
            if not isinstance(item, str):
                yield item
                return
            words = item
            yield Stage(words=words, seconds=time.monotonic() - begun)
