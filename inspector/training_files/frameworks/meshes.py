"""The meshes that a launch makes of its ranks: copies of shards, and what else shares ranks, as accelerate reads them.

FSDP1's hybrid strategies shard over the cards of a machine (torch, fsdp/_init_utils.py), FSDP2 over accelerate's
`dp_shard_size` (parallelism_config.py, 1.15). FSDP2 reads no `fsdp_sharding_strategy` (utils/dataclasses.py), and the
sizes have to be as many as there are processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from inspector.errors import UsageError
from inspector.records.training_file import Origin
from inspector.training_files.fields import UNKNOWN, Settings, Values

__all__ = ["forget_machines", "settle_copies", "settle_parallelism", "settle_sizes_of_axolotl"]

_PREFIX = "parallelism_config_"
_SIZES = ("dp_replicate_size", "dp_shard_size", "tp_size", "cp_size", "sp_size")


def settle_copies(values: Values, settings: Settings, fsdp: Mapping[str, Any]) -> None:
    """Take how many machines have all shards where FSDP is hybrid; else their number decides nothing."""
    strategy = str(fsdp.get("fsdp_sharding_strategy", "")).upper()
    is_hybrid = strategy in ("4", "5") or strategy.startswith("HYBRID_SHARD")
    if is_hybrid and settings.fields.get("sharding") == "fsdp1":
        settings.fields["nodes"] = values["num_machines"]
        return
    forget_machines(values, settings)
    if is_hybrid:
        settings.remark(
            "hybrid-ignored",
            "FSDP2 does not read fsdp_sharding_strategy: shards go over all cards. Copies of them on each machine are "
            "dp_replicate_size and dp_shard_size of parallelism_config.",
        )


def forget_machines(values: Values, settings: Settings) -> None:
    """Take nothing of the number of machines, which decides nothing here."""
    values.given.pop("num_machines", None)
    settings.fields.pop("nodes", None)


def settle_parallelism(values: Values, settings: Settings, kind: str) -> None:
    """Take copies of shards, and ranks that share layers, from accelerate's `parallelism_config`.

    Raises UsageError for sizes that are not as many as there are processes, and beside FSDP1. Ranks that share a
    sequence, and layers beside copies, stay what is not modelled.
    """
    sizes = _read_sizes(values, values["parallelism_config"] or {})
    total = math.prod(sizes.values())
    if total == 1:
        settings.silent.add("parallelism_config")
        return
    count = values["num_processes"]
    if count is not None and count != total:
        named = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
        raise UsageError(
            f"{values.path}: parallelism_config is of {total:,} processes ({named}), and num_processes is {count:,}: "
            "accelerate stops there; make them equal."
        )
    if kind == "FSDP" and settings.fields.get("sharding") == "fsdp1":
        raise UsageError(
            f"{values.path}: accelerate's parallelism_config is for FSDP2, and this file is for FSDP1: add "
            "fsdp_version 2 to fsdp_config, or drop parallelism_config."
        )
    shards, copies = sizes["dp_shard_size"], sizes["dp_replicate_size"]
    if shards * copies == total and settings.fields.get("sharding") == "fsdp":
        if shards == 1:
            raise UsageError(
                f"{values.path}: parallelism_config leaves FSDP nothing to shard over, dp_shard_size is 1: accelerate "
                "stops there; raise it, or drop FSDP."
            )
        settings.fields |= {"nodes": copies} if copies > 1 else {}
        settings.silent.add("parallelism_config")
    elif min(shards, sizes["tp_size"]) > 1 and shards * sizes["tp_size"] == total and kind != "DEEPSPEED":
        _cut_and_shard(settings, sizes, kind)
    elif sizes["tp_size"] == total and kind.startswith("MULTI"):
        settings.fields["tensor_parallel"] = total
        settings.silent.add("parallelism_config")
    elif copies == total and kind.startswith("MULTI"):  # DDP
        settings.silent.add("parallelism_config")


def _cut_and_shard(settings: Settings, sizes: Mapping[str, int], kind: str) -> None:
    """Take over how many cards layers are cut; their parts are sharded over the others, as transformers does both.

    Under FSDP accelerate 1.15 makes DTensors of what is whole by a class that transformers 5.23 has no more
    (accelerator.py, `_prepare_tp`).
    """
    count, shards = sizes["tp_size"], sizes["dp_shard_size"]
    settings.fields |= {"tensor_parallel": count, "sharding": "fsdp", "gpu_count": count * shards}
    settings.fields.pop("sharding_settings", None)
    settings.silent.add("parallelism_config")
    if kind == "FSDP":
        settings.remark(
            "fsdp-beside-tp",
            "accelerate 1.15 stops at FSDP beside tp_size where transformers is 5.23. Traced is what runs: "
            f"from_pretrained with DistributedConfig(tp_size={count}, fsdp_size={shards}), and distributed_type "
            "MULTI_GPU.",
        )


def settle_sizes_of_axolotl(values: Values, settings: Settings) -> None:
    """Take over how many cards axolotl shards under FSDP2, and how many such groups there are (utils/distributed.py).

    With experts on cards of their own `dp_shard_size` is over how many cards those of one are cut, and the rest of the
    model is sharded over all (integrations/expert_parallel, 0.21). Cards that share layers or sequences leave all of it
    what is not modelled.
    """
    for name in ("nodes", "gpu_count", "expert_parallel"):
        settings.fields.pop(name, None)
    shared = ("tensor_parallel_size", "context_parallel_size", "sequence_parallel_degree")
    shards, copies = values["dp_shard_size"] or 1, values["dp_replicate_size"] or 1
    experts = values["expert_parallel_size"] or 1
    if settings.fields.get("sharding") != "fsdp" or any((values[name] or 1) != 1 for name in shared):
        return
    if experts > 1 and copies == 1:
        _spread_experts(values, settings, experts)
    if experts > 1 or shards == 1:
        return
    settings.fields["gpu_count"] = shards * copies
    settings.fields |= {"nodes": copies} if copies > 1 else {}
    settings.silent |= {"dp_shard_size", "dp_replicate_size"}


def _spread_experts(values: Values, settings: Settings, experts: int) -> None:
    """Take over how many cards a layer's experts are spread; how tokens reach them is axolotl's own."""
    settings.fields["expert_parallel"] = experts
    settings.fields.pop("sharding_settings", None)
    if values["dp_shard_size"]:
        settings.fields["gpu_count"] = values["dp_shard_size"] * experts
    settings.silent |= {"dp_shard_size", "expert_parallel_size"}
    why = "sends tokens to experts by axolotl's own code, transformers' stands in for it"
    settings.miss("expert_parallel_size", experts, UNKNOWN, why, Origin.FILE)


def _read_sizes(values: Values, config: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes of a mesh by their names, 1 where nothing is said."""
    named = {str(key).removeprefix(_PREFIX): value for key, value in config.items()}
    sizes = {}
    for name in _SIZES:
        value = named.get(name)
        number = 1 if value is None else int(value) if str(value).isascii() and str(value).isdigit() else 0
        if isinstance(value, bool) or not 1 <= number < 2**20:
            raise UsageError(
                f"{values.path}: {name} of parallelism_config is no number of cards; give one of at least 1."
            )
        sizes[name] = number
    return sizes
