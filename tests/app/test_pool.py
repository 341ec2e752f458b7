"""Workers that take too much are ended, say why, and are replaced."""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inspector.app.form import Form, build_question
from inspector.app.pool import Limits, WorkerPool, make_environment
from inspector.app.questions import Answer, Kind, Question, Refusal

SMALL = build_question(Kind.REPORT, Form(model="Qwen/Qwen2.5-0.5B", rank=2, seq_len=32))
LARGE = build_question(Kind.REPORT, Form(model="moonshotai/Kimi-K2-Instruct"))
# Workers take seconds to start: where the app can run.
starts_workers = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")


@contextmanager
def run_pool(folder: Path, **limits: Any) -> Iterator[WorkerPool]:
    """Run a pool of one worker without network."""
    pool = WorkerPool(1, dataclasses.replace(Limits(), **limits), folder)
    pool.start()
    try:
        yield pool
    finally:
        pool.stop()
    assert list(folder.iterdir()) == []


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def ignore(_stage: str) -> None:
    """Hear what is being done."""


@starts_workers
def test_a_question_that_takes_too_long_ends_its_worker(tmp_path: Path) -> None:
    with run_pool(tmp_path, seconds=0.6) as pool:
        told = pool.ask(LARGE, ignore)
        assert isinstance(told, Refusal)
        assert told.message.startswith("this takes more than the 0.6 seconds that a question has here")
        assert pool.ask(LARGE, ignore) == told, "another one has begun"


@starts_workers
def test_a_question_that_takes_too_much_memory_ends_its_worker(tmp_path: Path) -> None:
    """Here it begins with more than it may have."""
    with run_pool(tmp_path, memory_bytes=2**28) as pool:
        told = pool.ask(LARGE, ignore)
        assert isinstance(told, Refusal)
        assert told.message.startswith("this takes more than the 256.00 MiB of memory that a question has here")


@starts_workers
def test_a_worker_is_replaced_after_its_questions_and_a_full_queue_refuses(tmp_path: Path) -> None:
    with run_pool(tmp_path, questions=1, waiting=0) as pool:
        full = Refusal(message="too many questions wait here already; ask again in a minute.")
        assert pool.ask(SMALL, ignore) == full, "the worker starts"
        workers = []
        for words in (SMALL.words, (*SMALL.words, "--count-only")):
            seen: set[int] = set()
            question = dataclasses.replace(SMALL, words=words)
            while pool.ask(question, lambda _stage, seen=seen: seen.update(pool.pids)) == full:  # type: ignore[misc]
                time.sleep(0.05)
            workers.append(seen)
        first, second = workers
        assert len(first) == len(second) == 1
        assert first != second


def test_a_worker_has_neither_the_token_nor_the_cache_of_whoever_serves_the_page(tmp_path: Path) -> None:
    owner = {"HF_TOKEN": "x", "HF_HOME": "/home/me/hf", "HF_HUB_CACHE": "/c", "HF_ENDPOINT": "https://mirror", "A": "b"}
    stranger = make_environment(owner, tmp_path, with_token=False)
    assert "HF_TOKEN" not in stranger
    assert "HF_HUB_CACHE" not in stranger
    assert stranger["HF_HOME"] == str(tmp_path / "home")
    assert (stranger["HF_ENDPOINT"], stranger["A"]) == ("https://mirror", "b")
    assert owner.items() <= make_environment(owner, tmp_path, with_token=True).items()


def test_the_worker_that_knows_a_model_is_asked_and_others_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is free, by what it answered last; processes play no part."""
    pool = WorkerPool(2, Limits(), tmp_path)
    asked: list[tuple[int, str]] = []

    def stand_in(number: int) -> Callable[[Question, Callable[[str], None]], Answer]:
        def ask(question: Question, _progress: Callable[[str], None]) -> Answer:
            pool._workers[number].model = question.model
            asked.append((number, question.model))
            return Answer(page=b"", command="")

        return ask

    for number, worker in enumerate(pool._workers):
        monkeypatch.setattr(worker, "ask", stand_in(number))
        monkeypatch.setattr(worker, "prepare", lambda: None)
        pool._prepare(worker)
    for model in ("a", "b", "b", "a", "a", "b"):
        pool.ask(Question(kind=Kind.REPORT, words=(model,)), ignore)
        while any(worker.is_busy for worker in pool._workers):
            pass
    by_model = {model: {number for number, asked_for in asked if asked_for == model} for model in "ab"}
    assert by_model == {"a": {0}, "b": {1}}
