"""The simulated allocator against what torch's own one was seen to do (recorded_allocator/README.md)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.memory.recorded_allocator.record import RECORDED, SETTINGS, Step, simulate

RUNS: list[dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))["runs"]


def steps_of(run: dict[str, Any]) -> list[Step]:
    """Return the tape of a recorded run."""
    return [(word[0], int(word[1:])) for word in run["tape"].split()]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['settings'] or 'default'}-{run['limit_bytes']}")
def test_every_event_agrees_with_the_recorded_allocator(run: dict[str, Any]) -> None:
    """Allocated and reserved agree after each event, and so do the failures, the peaks and the retries."""
    states = simulate(steps_of(run), run["settings"], run["limit_bytes"])
    assert [state.allocated for state in states] == run["allocated"]
    assert [state.reserved for state in states] == run["reserved"]
    assert [index for index, state in enumerate(states) if state.failed] == run["failed"]
    assert list(states[-1]) == run["end"]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['settings'] or 'default'}-{run['limit_bytes']}")
def test_the_same_holds_where_there_are_so_many_free_blocks_that_their_list_is_cut(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists of three are chunks of all lists, at whose ends a block may lie."""
    for module in ("pools", "free_blocks"):
        monkeypatch.setattr(f"inspector.memory.allocator.{module}.MOST_IN_A_CHUNK", 3)
    test_every_event_agrees_with_the_recorded_allocator(run)


def test_the_recording_covers_every_setting_and_running_out_of_memory() -> None:
    """A recording without releases and failures would not test them."""
    assert {run["settings"] for run in RUNS} == set(SETTINGS)
    assert any(run["failed"] for run in RUNS if "expandable" in run["settings"])
    # A retry that succeeded: more retries than failures.
    assert any(run["end"][-1] > len(run["failed"]) for run in RUNS)
