"""transformers' DistributedConfig as JSON or YAML: over how many cards tensors, experts and shards go.

Source: transformers 5.23, distributed/configuration_utils.py. It names no model. FSDP2 is traced as accelerate wraps
it, with the units of the model's `_no_split_modules`.
"""

from __future__ import annotations

from inspector.errors import UsageError
from inspector.training_files.fields import (
    COUNT,
    FLAG,
    LESS,
    MORE,
    UNKNOWN,
    Field,
    Framework,
    Settings,
    Values,
    misses,
    reads,
)

__all__ = ["DISTRIBUTED_CONFIG"]

_FIELDS: tuple[Field, ...] = (
    reads("tp_size", COUNT, "tensor_parallel"),
    reads("fsdp_size", COUNT, "sharding"),
    reads("dp_replicate_size", COUNT, "nodes"),
    reads("ep_size", COUNT, "expert_parallel"),
    misses("pp_size", LESS, "cards share layers", kind=COUNT, off=(1,)),
    reads("enable_expert_parallel", FLAG, "expert_parallel"),
    misses("tp_plan", UNKNOWN, "other layers are cut than by the model's own plan", off=("auto",)),
    misses("fsdp_plan", UNKNOWN, "other units are sharded than by the model's own plan"),
    misses("ep_plan", UNKNOWN, "experts are spread otherwise than by the model's own plan"),
    misses("fsdp_cpu_offload", LESS, "weights and states are offloaded to the host"),
    misses("fsdp_mixed_precision", MORE, "units are gathered in another dtype than they are kept in"),
    misses("enable_sequence_parallel", UNKNOWN, "transformers reserves it, and has nothing behind it"),
    misses("ep_implementation", UNKNOWN, "tokens reach their experts another way", off=("auto", "all_to_all")),
)


def _settle(values: Values, settings: Settings) -> None:
    """Take the cards and what they share; raise UsageError for layers that are spread over them one after the other."""
    fields = settings.fields
    sizes = {name: values[name] or 1 for name in ("tp_size", "fsdp_size", "dp_replicate_size", "ep_size", "pp_size")}
    if sizes["pp_size"] > 1:
        raise UsageError(
            f"{values.path}: pp_size is {sizes['pp_size']:,}, and pipelines are not traced: give pp_size 1 with "
            "tp_size or fsdp_size."
        )
    for name in ("tensor_parallel", "sharding", "nodes", "expert_parallel"):
        fields.pop(name, None)
    if values["enable_expert_parallel"] and not values.has("ep_size"):
        raise UsageError(
            f"{values.path}: enable_expert_parallel is gone since transformers 5.21: give ep_size "
            f"{sizes['tp_size']}, or drop it."
        )
    fields["gpu_count"] = sizes["tp_size"] * sizes["fsdp_size"] * sizes["dp_replicate_size"]
    if sizes["fsdp_size"] * sizes["dp_replicate_size"] > 1:
        fields["sharding"] = "fsdp"
    for name, becomes in (
        ("tp_size", "tensor_parallel"),
        ("ep_size", "expert_parallel"),
        ("dp_replicate_size", "nodes"),
    ):
        if sizes[name] > 1:
            fields[becomes] = sizes[name]


DISTRIBUTED_CONFIG = Framework(
    name="transformers' DistributedConfig",
    package="transformers",
    newest="5.23.0",
    fields=_FIELDS,
    settle=_settle,
)
