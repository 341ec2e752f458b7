"""Answers are kept by their question, as many as there is room for, as long as they are fresh."""

from __future__ import annotations

import threading

import pytest

from inspector.app.answers import KeptAnswers
from inspector.app.questions import Answer, Kind, Question, Refusal


def question(word: str) -> Question:
    return Question(kind=Kind.REPORT, words=(word,))


class Worker:
    """One that answers with pages of ten bytes and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, asked: Question) -> Answer | Refusal:
        """Answer."""
        self.asked.append(asked.model)
        return Answer(page=b"0123456789", command=asked.model)


def test_a_question_is_worked_on_once() -> None:
    kept, worker = KeptAnswers(), Worker()
    assert kept.find(question("a").key) is None
    assert kept.ask(question("a"), worker) is kept.ask(question("a"), worker)
    assert kept.find(question("a").key) is not None
    assert worker.asked == ["a"]


def test_the_least_recently_used_answers_go_first() -> None:
    kept, worker = KeptAnswers(most_bytes=20), Worker()
    for word in ("a", "b", "a", "c", "a", "b"):
        kept.ask(question(word), worker)
    assert worker.asked == ["a", "b", "c", "b"]


def test_an_old_answer_is_asked_for_again_and_its_page_can_be_looked_at_until_then() -> None:
    kept, worker = KeptAnswers(fresh_seconds=0), Worker()
    kept.ask(question("a"), worker)
    kept.ask(question("a"), worker)
    assert worker.asked == ["a", "a"]
    assert kept.find(question("a").key) is None
    assert kept.find_page(question("a").key) == b"0123456789"
    assert kept.find_page(question("b").key) is None


def test_an_answer_takes_the_room_of_the_one_that_it_replaces() -> None:
    kept, worker = KeptAnswers(most_bytes=20, fresh_seconds=0), Worker()
    for word in ("a", "b", "b", "b"):
        kept.ask(question(word), worker)
    assert kept.find_page(question("a").key) is not None


def test_refusals_are_not_kept() -> None:
    kept, asked = KeptAnswers(), []

    def refuse(of: Question) -> Refusal:
        asked.append(of)
        return Refusal(message="no network")

    assert kept.ask(question("a"), refuse) == kept.ask(question("a"), refuse)
    assert len(asked) == 2


def test_two_visitors_with_one_question_wait_for_one_answer() -> None:
    kept, begun, go, told = KeptAnswers(), threading.Event(), threading.Event(), []
    worker = Worker()

    def work(of: Question) -> Answer | Refusal:
        begun.set()
        assert go.wait(10)
        return worker(of)

    first = threading.Thread(target=lambda: told.append(kept.ask(question("a"), work)))
    first.start()
    assert begun.wait(10)
    second = threading.Thread(target=lambda: told.append(kept.ask(question("a"), work)))
    second.start()
    go.set()
    first.join(10)
    second.join(10)
    assert len(told) == 2
    assert worker.asked == ["a"]


def test_an_error_is_an_error_for_whoever_asked_and_a_refusal_for_whoever_waited() -> None:
    kept = KeptAnswers()

    def fail(_of: Question) -> Answer:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        kept.ask(question("a"), fail)
    assert isinstance(kept.ask(question("a"), Worker()), Answer)
