"""The rows of tests/evidence/truth/stand_in/cards.json, traced: the figures of each card in the second step."""

from __future__ import annotations

from typing import Any

from inspector.distributed.device_map import trace_cards
from inspector.hardware.platform import Platform
from inspector.memory.timeline import fold
from inspector.records.recipe import Recipe
from inspector.records.steps.ranks import DeviceMap
from inspector.workloads.registry import TRAINING, load_workload
from tests.evidence.truth.trainer_rows import build
from tests.workloads.tracing import built

__all__ = ["predict_cards"]


def predict_cards(row: dict[str, Any], platform: Platform, card_bytes: int) -> list[dict[str, int]]:
    """Return the predicted figures of a row, card by card."""
    known, bare, workload = built(build(row)), build({**row, "lora": None}), load_workload(TRAINING)
    asked = {"optimizer": "adamw_torch_fused", "padding": False, **row["recipe"]}  # all rows are as long
    recipe = workload.resolve(known.model, Recipe(**asked))
    launch = DeviceMap(world_size=2, device_map=row["device_map"], card_bytes=card_bytes)
    return [_describe(fold(tape)) for tape in trace_cards(workload, known, bare, recipe, platform, launch)]


def _describe(timeline: Any) -> dict[str, int]:
    """Return the figures of one card."""
    phases = [phase for phase in timeline.phases if phase.step == 2]
    return {
        "peak_allocated_bytes": max(phase.peak_allocated_bytes for phase in phases),
        "peak_reserved_bytes": max(phase.peak_reserved_bytes for phase in phases),
        "end_of_step_allocated_bytes": timeline.step_end_allocated_bytes[2],
    }
