"""The inspector's count of every catalogue entry against arithmetic and against the published count."""

from __future__ import annotations

from pathlib import Path

import pytest

import inspector
from inspector.records.source import ServedFrom

from .catalogue import entries
from .differences import DIFFERENCES, UNIDENTIFIED
from .formulas import own_count

ENTRIES = entries()


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the machine's own cache, which comes before the catalogue."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize("model_id", ENTRIES)
@pytest.mark.one_of(3)
def test_count_is_exact_and_a_published_count_that_differs_is_explained(model_id: str) -> None:
    """The meta model has as many parameters as its dimensions say; published counts differ by known sums only."""
    entry = ENTRIES[model_id]
    report = inspector.inspect(model_id, offline=True, count_only=True)

    assert report.model.source is ServedFrom.BUNDLED
    assert report.parameters.base == own_count(entry["config"])
    assert sum(report.parameters.groups.values()) == report.parameters.total == report.parameters.base

    published = report.parameters.published
    assert published is not None
    assert published.parameters == entry["published"]["parameters"]
    difference = DIFFERENCES.get(model_id, 0) + UNIDENTIFIED.get(model_id, 0)
    assert published.parameters - report.parameters.base == difference
    assert (published.explanation is None) == (difference == 0)


@pytest.mark.parametrize("model_id", [model_id for model_id, entry in ENTRIES.items() if entry["aliases"]])
def test_an_alias_finds_the_same_model(model_id: str) -> None:
    """A legacy id gives the model that the Hub redirects it to."""
    (alias,) = ENTRIES[model_id]["aliases"]
    report = inspector.inspect(alias, offline=True, count_only=True)
    assert report.parameters.base == own_count(ENTRIES[model_id]["config"])
