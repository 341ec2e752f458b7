"""How a measured run is spread over its ranks: what is run for real, and how its record says it."""

from __future__ import annotations

from typing import Any

from inspector.errors import UsageError
from inspector.records.report import to_plain
from inspector.records.steps.ranks import Ddp, DeviceMap, Fsdp1, Fsdp2, RankLaunch, TensorParallel, Zero
from inspector.resolve import ResolvedRun

__all__ = ["describe_launch", "find_launch"]

_KINDS: dict[str, type[RankLaunch]] = {
    "ddp": Ddp,
    "fsdp1": Fsdp1,
    "fsdp2": Fsdp2,
    "tensor_parallel": TensorParallel,
}


def find_launch(run: ResolvedRun, *, has_others: bool) -> RankLaunch:
    """Return how a run is spread; raises UsageError where its ranks are not traced, or say nothing without others."""
    launch = run.launch
    if launch is None or isinstance(launch, DeviceMap):
        raise UsageError(
            "what a rank of this run takes is not traced, so that there is nothing to measure it against: see what "
            "`inspect MODEL` with the same options says."
        )
    if isinstance(launch, Zero):
        raise UsageError(
            "a rank of ZeRO is traced and not run: DeepSpeed keeps the device that it was traced with for the rest of "
            "a process; measure another `sharding`."
        )
    if isinstance(launch, Fsdp1) and launch.replicas > 1:
        raise UsageError(
            "HYBRID_SHARD of FSDP1 asks the machine how many cards a node has: measure it with "
            "`sharding=fsdp` (FSDP2), whose mesh of copies is told."
        )
    if isinstance(launch, TensorParallel) and launch.expert_parallel > 1 and not has_others:
        raise UsageError(
            "`expert_parallel` asks the other ranks how many tokens they send, and they are not there: start all ranks "
            "with torchrun."
        )
    if run.recipe.mixed_precision == "fp16" and not has_others:
        raise UsageError(
            "`mixed_precision=fp16` skips an update whose gradients overflow, and those of ranks that are not there "
            "are any numbers: start all ranks with torchrun, or use `mixed_precision=bf16`."
        )
    return launch


def describe_launch(launch: RankLaunch, rank: int, group: str) -> dict[str, Any]:
    """Return a launch as a record has it, with the rank that was measured and what its collectives went through."""
    (strategy,) = (name for name, kind in _KINDS.items() if type(launch) is kind)
    settings = {key: value for key, value in to_plain(launch).items() if value is not None}
    return {"strategy": strategy, **settings, "rank": rank, "group": group}
