"""When a third shallow model is laid beside what two say of it, and what comes of that."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from inspector.cache.findings import Kept
from inspector.cache.store import Store
from inspector.extrapolate import held
from inspector.planning.notices import find_assumption_notices
from inspector.predict.findings import Findings
from inspector.predict.predictor import Predictor
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Request
from inspector.resolve import ResolvedRun, resolve_run
from inspector.runtime.versions import find_versions
from inspector.source import catalogue
from tests.extrapolate.hold_structures import hold_run

MODEL = "HuggingFaceTB/SmolLM2-135M"
FILES = catalogue.load_model(MODEL)
LORA = LoraOptions(r=8, targets="all-linear")
REQUEST = Request(model=MODEL, peft=LORA, recipe=Recipe(seq_len=32), offline=True)


@pytest.fixture
def depths(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Note the depths that are traced, with no structure known."""
    traced: list[int | None] = []
    trace = Findings.trace

    def note(findings: Findings, run: ResolvedRun, added_periods: int | None, **options: Any) -> Any:
        traced.append(added_periods)
        return trace(findings, run, added_periods, **options)

    monkeypatch.setattr(Findings, "trace", note)
    monkeypatch.setattr(held, "load_structures", lambda _versions: frozenset())
    return traced


def predict(folder: Path | None, request: Request = REQUEST) -> tuple[Predictor, ResolvedRun]:
    """Predict a request with what is kept in a folder, None for nothing."""
    kept = None if folder is None else Kept(Store(folder, "a" * 64), "files", "model")
    predictor, run = Predictor(FILES, kept), resolve_run(request, None, {})
    predictor.predict(run)
    return predictor, run


def test_a_structure_that_is_not_known_is_held_against_a_third_depth_once(
    depths: list[int | None], tmp_path: Path
) -> None:
    """At another length the same layers are not held again, in another process either: that is kept."""
    predict(tmp_path)
    assert depths == [0, 1, 2]
    predict(tmp_path, dataclasses.replace(REQUEST, recipe=Recipe(seq_len=48)))
    assert depths == [0, 1, 2, 0, 1]


def test_a_structure_that_is_known_is_not_held(
    depths: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is any where nothing is kept: each process would do it anew."""
    predict(None)
    assert depths == [0, 1]
    structure = Predictor(FILES).findings.tracer.digest_structure(REQUEST)
    monkeypatch.setattr(held, "load_structures", lambda _versions: frozenset({structure}))
    predict(tmp_path)
    assert depths == [0, 1, 0, 1]


def test_a_model_whose_third_depth_runs_otherwise_is_traced_whole_and_the_report_says_so(
    depths: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event more is enough."""
    trace = Findings.trace

    def lengthen(findings: Findings, run: ResolvedRun, added_periods: int | None, **options: Any) -> Any:
        found = trace(findings, run, added_periods, **options)
        return dataclasses.replace(found, tape=[*found.tape, found.tape[0]]) if added_periods == 2 else found

    monkeypatch.setattr(Findings, "trace", lengthen)
    predictor, run = predict(tmp_path)
    assert depths[-1] is None
    assert len(predictor.predict(run).template.traced) == len(predictor.predict(run).tape)
    assert [notice.code for notice in find_assumption_notices(predictor.list_assumptions(run))] == ["layers-differ"]


def test_the_table_has_what_was_held_with_the_installed_releases() -> None:
    """LoRA on QwQ-32B among them; with another release of transformers nothing is known."""
    versions = find_versions()
    known = held.load_structures(versions)
    if not known:
        pytest.skip("the table is of other releases")
    request = Request(model="Qwen/QwQ-32B", peft=LORA, offline=True)
    files = catalogue.load_model("Qwen/QwQ-32B")
    assert Predictor(files).findings.tracer.digest_structure(request) in known
    assert held.load_structures({**versions, "transformers": "5.0.0"}) == frozenset()


def test_what_the_table_says_is_what_its_script_finds() -> None:
    """A structure that is in it is passed over, and held where it is not."""
    assert FILES is not None
    found = hold_run(REQUEST, FILES, frozenset())
    assert found is not None
    assert found[1]
    assert hold_run(REQUEST, FILES, frozenset({found[0]})) is None
