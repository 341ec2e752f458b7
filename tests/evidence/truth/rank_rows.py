"""The rows of tests/evidence/truth/stand_in/ranks.json, traced: a rank's figures of its second step."""

from __future__ import annotations

from typing import Any

from inspector.distributed.run import trace_rank
from inspector.hardware.platform import Platform
from inspector.memory.timeline import fold
from inspector.records.recipe import Recipe
from inspector.records.steps.ranks import Ddp, Fsdp2
from inspector.workloads.registry import TRAINING, load_workload
from tests.evidence.truth.trainer_rows import build
from tests.workloads.tracing import built

__all__ = ["predict_rank"]


def predict_rank(row: dict[str, Any], platform: Platform) -> dict[str, int]:
    """Return the predicted figures of a row."""
    launch = dict(row["launch"])
    rank = launch.pop("rank", 0)
    how: Ddp | Fsdp2 = Ddp(world_size=launch["world_size"], find_unused_parameters=launch.get("find_unused_parameters"))
    if launch["strategy"] == "fsdp2":
        config = launch.get("fsdp_config", {})
        how = Fsdp2(world_size=launch["world_size"], reshard_after_forward=config.get("reshard_after_forward", True))
    known, workload = built(build(row)), load_workload(TRAINING)
    recipe = workload.resolve(known.model, Recipe(**{"optimizer": "adamw_torch_fused", **row["recipe"]}))
    timeline = fold(trace_rank(workload, known, recipe, platform, how, rank))
    phases = [phase for phase in timeline.phases if phase.step == 2]
    return {
        "peak_allocated_bytes": max(phase.peak_allocated_bytes for phase in phases),
        "peak_reserved_bytes": max(phase.peak_reserved_bytes for phase in phases),
        "end_of_step_allocated_bytes": timeline.step_end_allocated_bytes[2],
    }
