"""What a search of a plan leaves undone: replays of what nobody is shown, and traces that cannot match."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest

from inspector.hardware.catalogue import find_gpu
from inspector.memory.replay import Replays
from inspector.planning.largest import Experience, find_largest, find_nearly_largest
from inspector.predict.predictor import Predictor
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Request
from inspector.resolve import ResolvedRun, resolve_run
from inspector.source.read import read_files

REQUEST = Request(
    model="Qwen/Qwen2.5-0.5B", peft=LoraOptions(r=2), recipe=Recipe(batch_size=1, seq_len=1024), offline=True
)


def resolve() -> ResolvedRun:
    return resolve_run(REQUEST, find_gpu("t4").gpu, os.environ)


def read() -> Any:
    return read_files(REQUEST, lambda _stage: None)


def test_a_plan_replays_without_a_limit_the_run_that_it_shows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a search tries has no total that somebody sees; `--fit` tells the total of each value."""
    limits: list[int | None] = []
    replay = Replays._run

    def note(self: Replays, limit_bytes: int | None) -> Any:
        limits.append(limit_bytes)
        return replay(self, limit_bytes)

    monkeypatch.setattr(Replays, "_run", note)
    run, predictor = resolve(), Predictor(read())
    assert predictor.predict(run).judge().fits
    found = find_nearly_largest(run, "batch-size", predictor, Experience())
    assert limits.count(None) == 1
    search = find_largest(run, "batch-size", predictor, lambda _stage: None)
    assert search.value == found
    assert limits.count(None) == len(search.tried)


def test_only_the_first_run_is_traced_to_its_end() -> None:
    """A batch copies what of one sequence is a view: its passes are traced on both depths, those of others once.

    A predictor of the same models knows of steps what this one found.
    """
    traced: list[tuple[int, int | None, bool]] = []
    predictor = Predictor(read())
    trace = predictor.findings.trace

    def note(run: ResolvedRun, added_periods: int | None, *, passes_alone: bool = False) -> Any:
        traced.append((run.recipe.batch_size, run.recipe.seq_len, passes_alone))
        return trace(run, added_periods, passes_alone=passes_alone)

    predictor.findings.trace = note  # type: ignore[method-assign]
    sizes = ((1, 1024), (4, 1024), (5, 1024), (1, 1088))
    recipes = [Recipe(batch_size=batch_size, seq_len=seq_len) for batch_size, seq_len in sizes]
    checkpointed = Recipe(batch_size=1, seq_len=512, gradient_checkpointing=True)
    for own, recipe in (*((predictor, recipe) for recipe in recipes), (predictor.copy_models(), checkpointed)):
        request = dataclasses.replace(REQUEST, recipe=recipe)
        own.predict(resolve_run(request, find_gpu("t4").gpu, os.environ))
    assert traced == [
        *((1, 1024, False), (1, 1024, False)),
        *((4, 1024, True), (4, 1024, True)),
        (5, 1024, True),
        (1, 1088, True),
        *((1, 512, True), (1, 512, True)),
    ]
