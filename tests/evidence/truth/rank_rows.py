"""The rows of tests/evidence/truth/stand_in/ranks.json, traced: a rank's figures of its second step."""

from __future__ import annotations

import dataclasses
from typing import Any

import peft
import torch

from inspector.distributed.run import trace_rank
from inspector.hardware.platform import Platform
from inspector.memory.timeline import fold
from inspector.model.build import BuiltModel
from inspector.model.changes.preparation import prepare_base
from inspector.model.quantize import BnbPlan, quantize_model
from inspector.quantization.bitsandbytes.stand_in import stand_in_for_bitsandbytes
from inspector.records.recipe import Recipe
from inspector.records.request import Preparation
from inspector.records.steps.ranks import Ddp, Fsdp1, Fsdp2, RankLaunch, TensorParallel, Zero
from inspector.workloads.registry import TRAINING, load_workload
from tests.evidence.truth.trainer_rows import build
from tests.workloads.tracing import built

__all__ = ["build_rank", "predict_rank"]


def build_rank(row: dict[str, Any]) -> BuiltModel:
    """Return the model of a row on meta; a base that bitsandbytes packs is prepared as the row says."""
    packing = row.get("quantization")
    if packing is None:
        return built(build(row))
    with stand_in_for_bitsandbytes():
        plan = BnbPlan(
            method=packing["method"],
            compute_dtype=torch.bfloat16,
            double_quant=packing["double_quant"],
            storage=getattr(torch, packing["storage"]),
        )
        preparation = Preparation(packing["preparation"])
        in_float: Any = build({**row, "lora": None})
        base = prepare_base(quantize_model(in_float, plan), preparation)
        adapter = peft.LoraConfig(task_type="CAUSAL_LM", **row["lora"])
        model = peft.get_peft_model(base, adapter, low_cpu_mem_usage=True)
    return dataclasses.replace(built(model), preparation=preparation)


def predict_rank(row: dict[str, Any], platform: Platform) -> dict[str, int]:
    """Return the predicted figures of a row."""
    launch = dict(row["launch"])
    rank = launch.pop("rank", 0)
    config, environment = launch.get("fsdp_config", {}), launch.get("environment", {})
    how: RankLaunch = Ddp(world_size=launch["world_size"], find_unused_parameters=launch.get("find_unused_parameters"))
    if launch["strategy"] == "fsdp2":
        how = Fsdp2(
            world_size=launch["world_size"],
            replicas=launch.get("replicas", 1),
            reshard_after_forward=config.get("reshard_after_forward", True),
            offload=config.get("cpu_offload", False),
            wrap_policy=environment.get(
                "FSDP_AUTO_WRAP_POLICY", "NO_WRAP" if environment else "TRANSFORMER_BASED_WRAP"
            ),
            cpu_ram_efficient_loading=environment.get("FSDP_CPU_RAM_EFFICIENT_LOADING") == "true",
        )
    if launch["strategy"] == "tensor_parallel":
        launch.pop("strategy")
        how = TensorParallel(**launch)
    elif launch["strategy"] == "fsdp1":
        how = Fsdp1(
            world_size=launch["world_size"],
            replicas=launch.get("replicas", 1),
            packed_on_host=launch.get("packed_on") == "host",
            offload=config.get("cpu_offload", False),
            sharding_strategy=environment.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD"),
            backward_prefetch=config.get("backward_prefetch", environment.get("FSDP_BACKWARD_PREFETCH")),
            wrap_policy=environment.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP"),
            min_num_params=int(environment.get("FSDP_MIN_NUM_PARAMS", "0")),
            use_orig_params=config.get("use_orig_params", environment.get("FSDP_USE_ORIG_PARAMS", "true") == "true"),
            sync_module_states=config.get(
                "sync_module_states", environment.get("FSDP_SYNC_MODULE_STATES", "true") == "true"
            ),
        )
    elif launch["strategy"] == "zero":
        stage = launch["config"]["zero_optimization"]["stage"]
        how = Zero(world_size=launch["world_size"], stage=stage, config=launch["config"])
    known, workload = build_rank(row), load_workload(TRAINING)
    recipe = workload.resolve(known.model, Recipe(**{"optimizer": "adamw_torch_fused", **row["recipe"]}))
    timeline = fold(trace_rank(workload, known, recipe, platform, how, rank))
    phases = [phase for phase in timeline.phases if phase.step == 2]
    load = timeline.phases[0].peak_allocated_bytes
    return {
        **({"load_peak_allocated_bytes": load} if row.get("quantization") else {}),
        "peak_allocated_bytes": max(phase.peak_allocated_bytes for phase in phases),
        "peak_reserved_bytes": max(phase.peak_reserved_bytes for phase in phases),
        "end_of_step_allocated_bytes": timeline.step_end_allocated_bytes[2],
    }
