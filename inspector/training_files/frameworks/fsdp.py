"""What a configuration of FSDP says, as accelerate's YAML and as Trainer's `fsdp_config` have it.

Sources: accelerate 1.15 (utils/dataclasses.py, FullyShardedDataParallelPlugin; utils/launch.py), transformers 5.23
(training_args.py, `_process_fsdp_args`). accelerate's names begin with `fsdp_`, which Trainer takes off. Where no
policy says which modules are units, accelerate wraps none beside the model, and Trainer the decoder layers. Trainer's
own `reshard_after_forward` is not read by FSDP1, whose `sharding_strategy` accelerate sets from the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inspector.errors import UsageError, quoted

__all__ = ["hold_packed_in", "is_offloaded", "name_fsdp", "read_fsdp"]

_STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2")
_POLICIES = ("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP")
_PREFETCHES = ("BACKWARD_PRE", "BACKWARD_POST", "NO_PREFETCH")
_VERSIONS = {"1": "fsdp1", "2": "fsdp"}


def name_fsdp(config: Mapping[str, Any], version: int) -> str:
    """Return the sharding that a configuration of FSDP asks for, where it names no version in the one given.

    Raises UsageError for a version that there is not.
    """
    if any("reshard_after_forward" in str(key) for key in config):  # which the first has not
        version = 2
    named = str(config.get("version", config.get("fsdp_version", version)))
    if named not in _VERSIONS:
        raise UsageError(f"fsdp_version is {quoted(named, 40)}; there are 1 and 2: give one of them.")
    return _VERSIONS[named]


def read_fsdp(config: Mapping[str, Any], version: int, *, by_accelerate: bool) -> tuple[str, dict[str, Any]]:
    """Return the sharding and its settings (fields of `Fsdp1` or `Fsdp2` that are not at their default).

    Raises UsageError for a value that accelerate does not take.
    """
    kind = name_fsdp(config, version)
    named = {str(key).removeprefix("fsdp_"): value for key, value in config.items() if value is not None}
    settings: dict[str, Any] = {}
    policy = _choose(named, "auto_wrap_policy", _POLICIES, "NO_WRAP" if by_accelerate else "TRANSFORMER_BASED_WRAP")
    if policy != "TRANSFORMER_BASED_WRAP":
        settings["wrap_policy"] = policy
    classes = named.get("transformer_layer_cls_to_wrap")
    if classes and policy == "TRANSFORMER_BASED_WRAP":
        settings["wrapped_classes"] = tuple(classes.split(",") if isinstance(classes, str) else map(str, classes))
    if policy == "SIZE_BASED_WRAP":
        settings["min_num_params"] = int(named.get("min_num_params", 0))
    if is_offloaded(named):
        settings["offload"] = True
    if kind == "fsdp":
        reshards = named.get("reshard_after_forward", named.get("sharding_strategy"))
        if str(reshards).lower() in ("false", "shard_grad_op"):
            settings["reshard_after_forward"] = False
        # `accelerate launch` has it on where a file says nothing (commands/launch.py), Trainer off.
        if str(named.get("cpu_ram_efficient_loading", by_accelerate)).lower() == "true":
            settings["cpu_ram_efficient_loading"] = True
        return kind, settings
    strategy = _choose(named, "sharding_strategy", _STRATEGIES, "FULL_SHARD")
    if strategy != "FULL_SHARD":
        settings["sharding_strategy"] = strategy
    prefetch = _choose(named, "backward_prefetch", _PREFETCHES, "NO_PREFETCH")
    if prefetch != "NO_PREFETCH":
        settings["backward_prefetch"] = prefetch
    for name, default in (("forward_prefetch", False), ("use_orig_params", True), ("sync_module_states", True)):
        is_on = str(named.get(name, default)).lower() == "true"
        if is_on is not default:
            settings[name] = is_on
    return kind, settings


def is_offloaded(config: Mapping[str, Any]) -> bool:
    """Tell whether shards wait in host memory; accelerate and Trainer have names of their own for it."""
    names = ("offload_params", "cpu_offload", "fsdp_offload_params", "fsdp_cpu_offload")
    return any(str(config.get(name)).lower() == "true" for name in names)


def hold_packed_in(fields: dict[str, Any], dtype: str) -> None:
    """Have 4-bit weights held in a dtype of floats where FSDP shards them; on one card it makes no difference."""
    if fields.get("sharding") in _VERSIONS.values() and fields.get("quantization") in ("nf4", "fp4"):
        fields["quant_storage"] = dtype


def _choose(named: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    """Return a value of a configuration; accelerate takes its place among the choices, from 1 on, for it too."""
    value = named.get(name, default)
    chosen = str(value).upper()
    if chosen.isdigit() and 0 < int(chosen) <= len(choices):
        return choices[int(chosen) - 1]
    if chosen not in choices:
        raise UsageError(f"fsdp_{name} is {quoted(str(value), 40)}; accelerate takes {', '.join(choices)}.")
    return chosen
