"""accelerate's YAML and DeepSpeed's JSON: how a run is launched, on how many cards, and what these share.

Sources: accelerate 1.15 (commands/config, utils/dataclasses.py), DeepSpeed's configuration page. `"auto"` means what
TrainingArguments say. Neither names a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inspector.errors import UsageError, quoted
from inspector.records.training_file import Origin
from inspector.training_files.fields import (
    ANY,
    COUNT,
    LESS,
    MAPPING,
    MORE,
    TEXT,
    Field,
    Framework,
    Settings,
    Values,
    misses,
    reads,
)
from inspector.training_files.frameworks.meshes import forget_machines, settle_copies, settle_parallelism
from inspector.training_files.frameworks.shared import SHARDED, read_deepspeed, read_others, take_fsdp
from inspector.training_files.frameworks.zero import take_stage

__all__ = ["ACCELERATE", "DEEPSPEED"]

# What "auto" is taken from the model's size for (transformers/integrations/deepspeed.py, `trainer_config_finalize`).
_OF_SIZE = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
_OFFLOADED = "offloaded to the host or a disk"
_SHARED = "cards share a sequence or a layer"

_OF_ACCELERATE: tuple[Field, ...] = (
    reads("num_processes", COUNT, "gpu_count"),
    reads("num_machines", COUNT, "nodes"),
    reads("distributed_type", TEXT, "sharding"),
    reads("mixed_precision", TEXT, "mixed_precision"),
    reads("fsdp_config", MAPPING, "sharding", effect=LESS, why=SHARDED),
    reads("deepspeed_config", MAPPING, "sharding", effect=LESS, why=SHARDED),
    reads("gradient_accumulation_steps", ANY, "gradient_accumulation"),
    misses("dynamo_config", LESS, "compiled kernels", off=({"dynamo_backend": "NO"},)),
    misses("megatron_lm_config", LESS, "cards share layers"),
    reads("parallelism_config", MAPPING, "nodes", effect=LESS, why=_SHARED),
    misses("fp8_config", MORE, "products in 8 bits"),
)
_OTHERS_OF_ACCELERATE = read_others("accelerate")


def _settle_accelerate(values: Values, settings: Settings) -> None:
    """Take the cards and what they share."""
    fields = settings.fields
    kind = str(values["distributed_type"] or "NO").upper()
    fields.pop("sharding", None)
    precision = values.choose("mixed_precision", {"no": "no", "bf16": "bf16", "fp16": "fp16", "fp8": "bf16"})
    if precision is not None:
        fields["mixed_precision"] = precision
    if not isinstance(values["gradient_accumulation_steps"], int):
        fields.pop("gradient_accumulation", None)
    fsdp, deepspeed = values["fsdp_config"] or {}, values["deepspeed_config"] or {}
    if kind == "FSDP":
        # Without a version accelerate takes the first (utils/dataclasses.py, FullyShardedDataParallelPlugin).
        take_fsdp(settings, fsdp, 1, by_accelerate=True)
        if fields.get("sharding_settings", {}).get("sharding_strategy") == "NO_SHARD":
            fields["sharding"] = None
            fields.pop("sharding_settings")
        settle_copies(values, settings, fsdp)
        if fsdp.get("fsdp_offload_params") in (True, "true") and fields["sharding"] is None:
            settings.miss("fsdp_offload_params", True, LESS, f"weights and states are {_OFFLOADED}", Origin.FILE)
        if fsdp.get("fsdp_activation_checkpointing") in (True, "true"):
            fields["gradient_checkpointing"] = True
    elif kind == "DEEPSPEED" and deepspeed.get("deepspeed_config_file") is not None:
        _take_named_config(values, settings, deepspeed["deepspeed_config_file"])
    elif kind == "DEEPSPEED":
        # As accelerate makes DeepSpeed's (utils/dataclasses.py, DeepSpeedPlugin).
        parts = {name: deepspeed.get(f"{name}_device") for name in ("offload_optimizer", "offload_param")}
        zero = {name: {"device": device} for name, device in parts.items() if device not in (None, "none")}
        take_stage(settings, deepspeed.get("zero_stage"), zero, "deepspeed_config", "deepspeed_config.")
    elif kind == "MEGATRON_LM":
        raise UsageError(
            f"{values.path} launches Megatron-LM, whose own layers and optimizer no trace has: give a file for FSDP or "
            "DeepSpeed, or say what cards share with `tensor_parallel`."
        )
    if kind != "FSDP":
        forget_machines(values, settings)
    settle_parallelism(values, settings, kind)
    settings.silent |= {"fsdp_config"}
    settings.silent |= {"deepspeed_config"} if kind != "DEEPSPEED" or not fields.get("sharding") else set()


def _take_named_config(values: Values, settings: Settings, named: Any) -> None:
    """Take the stage of the file of DeepSpeed that accelerate's file names; raise UsageError where it is not there."""
    config = read_deepspeed(values.path, named)
    if not isinstance(config, dict):
        raise UsageError(
            f"{values.path} leaves how DeepSpeed is configured to {quoted(named, 100)}, which is no JSON file beside "
            "it or here: put it there, or name where it is."
        )
    zero = config.get("zero_optimization") or {}
    _refuse_open(zero)
    take_stage(settings, zero.get("stage"), zero, "deepspeed_config", "zero_optimization.")
    for precision in ("fp16", "bf16"):
        if (config.get(precision) or {}).get("enabled") is True:
            settings.fields["mixed_precision"] = precision


def _refuse_open(zero: Mapping[str, Any]) -> None:
    """Raise UsageError for an "auto" that neither transformers nor accelerate fills in."""
    for name, value in zero.items():
        if value == "auto" and name not in _OF_SIZE:
            raise UsageError(
                f'zero_optimization.{name} is "auto", and nothing says what that is: transformers fills in '
                f"{', '.join(_OF_SIZE)}; give a value, or drop it."
            )


_OF_DEEPSPEED: tuple[Field, ...] = (
    reads("zero_optimization", MAPPING, "sharding", effect=LESS, why=SHARDED),
    reads("bf16", MAPPING, "mixed_precision"),
    reads("fp16", MAPPING, "mixed_precision"),
    reads("train_micro_batch_size_per_gpu", ANY, "batch_size"),
    reads("gradient_accumulation_steps", ANY, "gradient_accumulation"),
    reads("gradient_clipping", ANY, "max_grad_norm"),
    misses("activation_checkpointing", LESS, "checkpoints of DeepSpeed's own"),
    misses("compression_training", LESS, "weights are compressed on the way"),
    misses("tensor_parallel", LESS, "cards share a layer"),
)
_OTHERS_OF_DEEPSPEED = read_others("deepspeed")


def _settle_deepspeed(values: Values, settings: Settings) -> None:
    """Take the stage of ZeRO and the numbers that are not left to TrainingArguments."""
    fields = settings.fields
    fields.pop("sharding", None)
    fields.pop("mixed_precision", None)
    for name, wanted in (("batch_size", int), ("gradient_accumulation", int), ("max_grad_norm", (int, float))):
        if not isinstance(fields.get(name), wanted) or isinstance(fields.get(name), bool):
            fields.pop(name, None)
    for precision in ("fp16", "bf16"):
        if (values[precision] or {}).get("enabled") is True:
            fields["mixed_precision"] = precision
    zero = values["zero_optimization"] or {}
    _refuse_open(zero)
    take_stage(settings, zero.get("stage"), zero, "zero_optimization", "zero_optimization.")
    if not fields.get("sharding"):
        settings.silent.add("zero_optimization")


ACCELERATE = Framework(
    name="accelerate",
    package="accelerate",
    newest="1.15.0",
    fields=_OF_ACCELERATE,
    others=_OTHERS_OF_ACCELERATE,
    settle=_settle_accelerate,
)
DEEPSPEED = Framework(
    name="DeepSpeed",
    package="deepspeed",
    newest="0.18.0",
    fields=_OF_DEEPSPEED,
    others=_OTHERS_OF_DEEPSPEED,
    settle=_settle_deepspeed,
)
