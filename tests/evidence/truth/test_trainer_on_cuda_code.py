"""A real `transformers.Trainer` on torch's CUDA code peaks, reserves and ends where the trace says, to the byte.

The figures come from a stand-in for the CUDA runtime (tests/evidence/stand_in/README.md), not from a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from inspector.hardware.platform import Platform
from inspector.memory.timeline import fold
from inspector.records.recipe import Recipe
from tests.evidence.truth.matrix import OF_EVERY_ROW
from tests.evidence.truth.trainer_rows import build
from tests.workloads.tracing import trace

RECORD = json.loads((Path(__file__).parent / "stand_in" / "trainer.json").read_text(encoding="utf-8"))


def name(row: dict[str, Any]) -> str:
    """Name a row by its model and what is special in its recipe."""
    options = {key: value for key, value in row["recipe"].items() if key not in ("seq_len", "padding")}
    return " ".join([row["model"].partition("/")[2], "lora" if "lora" in row else "full", *map(str, options.values())])


@pytest.mark.parametrize("row", RECORD["rows"], ids=name)
@pytest.mark.skipif(
    transformers.__version__ != RECORD["transformers"], reason="recorded with another release of transformers"
)
@pytest.mark.filterwarnings("ignore")
def test_a_trainers_second_update_takes_what_is_traced(row: dict[str, Any]) -> None:
    major, minor = RECORD["torch"].split(".")[:2]
    platform = Platform(
        compute_capability=tuple(RECORD["compute_capability"]),
        multiprocessors=RECORD["multiprocessors"],
        threads_per_multiprocessor=RECORD["threads_per_multiprocessor"],
        torch_version=(int(major), int(minor)),
    )
    model = build(row)
    timeline = fold(trace(model, Recipe(**{**OF_EVERY_ROW, **row["recipe"]}), platform))
    second = [phase for phase in timeline.phases if phase.step == 2]
    assert row["measured"] == {
        "peak_allocated_bytes": max(phase.peak_allocated_bytes for phase in second),
        "peak_reserved_bytes": max(phase.peak_reserved_bytes for phase in second),
        "end_of_step_allocated_bytes": timeline.step_end_allocated_bytes[2],
    }
