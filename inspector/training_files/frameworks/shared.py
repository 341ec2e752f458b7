"""What several frameworks have in common: fields of transformers' TrainingArguments, and how values are translated.

Names are those of transformers 5.23 (training_args.py); TRL and LLaMA-Factory inherit them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inspector.compat.deepspeed import has_deepspeed
from inspector.errors import InspectorError
from inspector.records.request import LoraOptions
from inspector.records.steps.optimizers import FAMILIES, OPTIMIZERS, check_optimizer_name
from inspector.records.training_file import Effect, Origin
from inspector.runtime.confinement import takes_local_paths
from inspector.source.bounded_json import read_object
from inspector.training_files.fields import (
    ANY,
    COUNT,
    FLAG,
    LESS,
    MAPPING,
    MORE,
    NUMBER,
    TEXT,
    UNKNOWN,
    Field,
    Settings,
    Values,
    misses,
    reads,
)
from inspector.training_files.frameworks.fsdp import read_fsdp
from inspector.training_files.frameworks.zero import take_stage

__all__ = [
    "ALLOCATOR",
    "DTYPES",
    "OF_TRAINING_ARGUMENTS",
    "OTHERS_OF_TRAINING_ARGUMENTS",
    "SHARDED",
    "read_deepspeed",
    "read_lora",
    "read_others",
    "settle_attention",
    "settle_groups",
    "settle_optimizer",
    "settle_precision",
    "settle_reentrant",
    "settle_sharding",
    "spell_fields",
    "take_fsdp",
]

# A change that belongs in the environment of the run, by the name of this variable.
ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"
DTYPES: Mapping[Any, str] = {
    **dict.fromkeys(("float32", "fp32", "float", "torch.float32"), "float32"),
    **dict.fromkeys(("bfloat16", "bf16", "torch.bfloat16"), "bfloat16"),
    **dict.fromkeys(("float16", "fp16", "half", "torch.float16"), "float16"),
    "auto": "auto",
}

SHARDED = "ranks are not traced: the figures are those of the whole step on one card"

# What `optim_target_modules` says of the layers that are projected here.
ALL_LINEAR = ("all-linear", "all_linear")

OF_TRAINING_ARGUMENTS: tuple[Field, ...] = (
    reads("per_device_train_batch_size", COUNT, "batch_size", default=8),
    reads("gradient_accumulation_steps", COUNT, "gradient_accumulation", default=1),
    reads("optim", TEXT, "optimizer", default="adamw_torch_fused"),
    reads("optim_args", TEXT, "optim_args"),
    reads("max_grad_norm", NUMBER, "max_grad_norm", default=1.0),
    reads("bf16", FLAG, "mixed_precision", default=False),
    reads("fp16", FLAG, "mixed_precision", default=False),
    reads(
        "gradient_checkpointing", FLAG, "gradient_checkpointing", default=False, aliases=("activation_checkpointing",)
    ),
    reads("gradient_checkpointing_kwargs", MAPPING, "use_reentrant", aliases=("activation_checkpointing_kwargs",)),
    reads("use_cache", FLAG, "use_cache"),
    reads("use_liger_kernel", FLAG, "liger"),
    reads("liger_kernel_config", MAPPING, "liger"),
    reads("neftune_noise_alpha", NUMBER, "neftune"),
    reads("fsdp", ANY, "sharding", effect=LESS, why=SHARDED),
    reads("fsdp_config", ANY, "sharding", effect=LESS, why=SHARDED),
    reads("deepspeed", ANY, "sharding", effect=LESS, why=SHARDED),
    reads("ddp_find_unused_parameters", FLAG, "sharding_settings.find_unused_parameters"),
    # Not modelled.
    misses("auto_find_batch_size", LESS, "a smaller batch where memory runs out"),
    misses("torch_empty_cache_steps", LESS, "cached blocks are given back"),
    misses("torch_compile", UNKNOWN, "other kernels, which keep other tensors"),
    misses("label_smoothing_factor", MORE, "a second pass over the logits"),
    misses("optim_target_modules", UNKNOWN, "other layers than all linear ones are projected", off=ALL_LINEAR),
    misses("parallelism_config", UNKNOWN, "several cards share a sequence or a layer"),
)


def read_others(name: str) -> frozenset[str]:
    """Return the fields of a framework that change no memory: known, so that they are not taken for slips."""
    text = Path(__file__).parent.joinpath("others", f"{name}.txt").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))  # which release they are of
    return frozenset(" ".join(lines).split())


OTHERS_OF_TRAINING_ARGUMENTS = read_others("training_arguments")

# Optimizers that are not traced: which stands in, and how the real one differs from it.
_STAND_INS: Mapping[str, tuple[str, Effect]] = {
    **dict.fromkeys(("adamw_torch_8bit", "ao_adamw_8bit"), ("adamw_8bit", UNKNOWN)),
    **dict.fromkeys(("adamw_torch_4bit", "ao_adamw_4bit"), ("adamw_8bit", LESS)),
    "ao_adamw_fp8": ("adamw_8bit", UNKNOWN),
    **dict.fromkeys(("adamw_hf", "adamw_anyprecision", "grokadamw"), ("adamw_torch", UNKNOWN)),
    **dict.fromkeys(("adamw_apex_fused", "adamw_torch_xla", "adamw_torch_npu_fused"), ("adamw_torch_fused", UNKNOWN)),
    "optimi_adamw": ("adamw_torch_fused", UNKNOWN),
    **dict.fromkeys(("apollo_adamw", "flash_adamw"), ("adamw_torch", LESS)),
    **dict.fromkeys(("galore_adafactor", "galore_adamw_8bit"), ("galore_adamw", LESS)),
    **dict.fromkeys(
        tuple(f"galore_{name}_layerwise" for name in ("adamw", "adamw_8bit", "adafactor")), ("galore_adamw", LESS)
    ),
    **dict.fromkeys(("apollo_adamw_layerwise", "q_galore_adamw8bit"), ("adamw_torch", LESS)),
    "flash_adamw_8bit": ("adamw_8bit", LESS),
    **dict.fromkeys(("lomo", "adalomo"), ("sgd", LESS)),
    **dict.fromkeys(("dion", "lion_pytorch", "sinkgd", "sinkgd_adamw"), ("adamw_torch", LESS)),
    "came_pytorch": ("adafactor", UNKNOWN),
}
_ALIASES = {"paged_adamw": "paged_adamw_32bit", "lion": "lion_32bit", "paged_lion": "paged_lion_32bit"}
_ALIASES |= {"optimi_stableadamw": "stable_adamw"}


def settle_optimizer(values: Values, settings: Settings, name: str) -> None:
    """Take the optimizer of a field, or the nearest one that is traced."""
    given = values[name]
    if given is None:
        return
    given = _ALIASES.get(given, given)
    if given not in OPTIMIZERS and given in _STAND_INS:
        stand_in, effect = _STAND_INS[given]
        settings.miss(values.spell(name), given, effect, f"is not traced, {stand_in} stands in for it", Origin.FILE)
        given = stand_in
        settings.fields.pop("optim_args", None)
    elif given not in OPTIMIZERS:
        try:
            check_optimizer_name(given)
        except Exception:
            raise values.refuse(name, f"an optimizer such as {', '.join(OPTIMIZERS[:3])}") from None
    settings.fields["optimizer"] = given


def settle_groups(settings: Settings, name: str) -> None:
    """Leave out a rate of some parameters' own where more groups change nothing: updates that take no copies.

    torch's foreach kernels copy a group at a time.
    """
    if settings.fields.get("optimizer") in ("adamw_torch_fused", *FAMILIES["bitsandbytes"]):
        settings.silent.add(name)


def settle_precision(values: Values, settings: Settings, *, bf16: str = "bf16", fp16: str = "fp16") -> None:
    """Take mixed precision from two flags, of which fp16 goes before a bf16 that nobody asked for."""
    if values.has(bf16) and values.has(fp16) and values[bf16] and values[fp16]:
        raise values.refuse(fp16, f"one of {values.spell(bf16)} and {values.spell(fp16)}")
    if values[fp16]:
        settings.fields["mixed_precision"] = "fp16"
    else:
        settings.fields["mixed_precision"] = "bf16" if values[bf16] else "no"


def settle_reentrant(values: Values, settings: Settings, name: str = "gradient_checkpointing_kwargs") -> None:
    """Take how blocks are checkpointed, of which TRL knows a keyword more, and note what else there is."""
    keywords = values[name] or {}
    is_on = bool(settings.fields.get("gradient_checkpointing"))
    reentrant = keywords.get("use_reentrant", False)
    if not isinstance(reentrant, bool):
        raise values.refuse(name, "use_reentrant: true or false in it")
    settings.fields["use_reentrant"] = reentrant if is_on else False
    every = keywords.get("every_n_layers")
    if every is not None and (type(every) is not int or every < 1):
        raise values.refuse(name, "every_n_layers: an integer of at least 1 in it")
    if is_on:
        settings.fields |= {"checkpoint_every": every} if every not in (None, 1) else {}
        settings.fields |= {"offload": "checkpoints"} if keywords.get("offload") else {}
        settings.fields |= {"checkpoint_keeps": "attention"} if keywords.get("selective") else {}
    for key in keywords if is_on else ():
        if key not in ("use_reentrant", "every_n_layers", "offload", "selective"):
            settings.miss(f"{values.spell(name)}.{key}", None, UNKNOWN, "another way to checkpoint", Origin.FILE)


def settle_attention(values: Values, settings: Settings, name: str) -> None:
    """Take an attention implementation by transformers' name, or the nearest one that is traced."""
    given = values[name]
    settings.fields.pop("attention", None)
    if given in ("sdpa", "eager", "flash_attention_2"):
        settings.fields["attention"] = given
    elif given is not None:
        stand_in = "flash_attention_2" if "flash" in given else "sdpa"
        settings.fields["attention"] = stand_in
        settings.miss(values.spell(name), given, UNKNOWN, f"is not traced, {stand_in} stands in for it", Origin.FILE)


def settle_sharding(
    values: Values, settings: Settings, fsdp_version: int = 2, *, finds_unused: bool | None = None
) -> None:
    """Take what several cards share from `deepspeed`, `fsdp` and `fsdp_config`; FSDP is of a version by default.

    `finds_unused` is what the framework tells DDP of unused parameters where the file says nothing.
    """
    said = values["ddp_find_unused_parameters"]
    finds_unused = finds_unused if said is None else said
    settings.fields.pop("sharding", None)
    deepspeed = read_deepspeed(values.path, values["deepspeed"])
    if isinstance(deepspeed, dict):
        zero = deepspeed.get("zero_optimization")
        if isinstance(zero, dict):
            take_stage(settings, zero.get("stage"), zero, "deepspeed", "zero_optimization.")
    elif isinstance(deepspeed, str) and deepspeed:
        stages = [
            stage for stage in (1, 2, 3) if any(f"{z}{stage}" in deepspeed.lower() for z in ("z", "zero", "zero_"))
        ]
        if len(stages) == 1:
            settings.fields["sharding"] = f"zero{stages[0]}"
            settings.silent |= {"deepspeed"} if has_deepspeed() else set()
    elif values["fsdp"] or values["fsdp_config"]:
        config = values["fsdp_config"] if isinstance(values["fsdp_config"], dict) else {}
        asked = values["fsdp"]
        if "offload" in (asked.split() if isinstance(asked, str) else asked if isinstance(asked, list) else ()):
            config = {"cpu_offload": True, **config}  # training_args.py, `_apply_legacy_fsdp_to_config`
        take_fsdp(settings, config, fsdp_version, by_accelerate=False)
        settings.silent |= {"fsdp", "fsdp_config"}
    elif finds_unused is not None:
        settings.fields["sharding_settings"] = {"find_unused_parameters": finds_unused}


def take_fsdp(settings: Settings, config: Mapping[str, Any], version: int, *, by_accelerate: bool) -> None:
    """Take the sharding of a configuration of FSDP, and what it says of it."""
    settings.fields["sharding"], of_sharding = read_fsdp(config, version, by_accelerate=by_accelerate)
    if of_sharding:
        settings.fields["sharding_settings"] = of_sharding


def read_deepspeed(path: str, given: Any) -> Any:
    """Return what the JSON file holds that `deepspeed` names, beside the training file or here; else what is given."""
    if isinstance(given, str) and given.endswith(".json") and "\0" not in given and takes_local_paths():
        for candidate in (Path(path).parent / given, Path(given)):
            with contextlib.suppress(InspectorError, OSError):
                if candidate.is_file():
                    return read_object(candidate)
    return given


def spell_fields(
    change: Mapping[str, Any], names: Mapping[str, str], translated: Mapping[str, Mapping[Any, Any]] | None = None
) -> dict[str, Any]:
    """Return the changed fields that a framework has one name for; others are left to the caller."""
    translated = translated or {}
    return {
        names[name]: translated.get(name, {}).get(value, value)
        for name, value in change.items()
        if name in names and value is not None
    }


def read_lora(values: Values, names: Mapping[str, str], *, targets: Any) -> LoraOptions:
    """Return the adapter of the fields that `names` gives for the settings of LoraOptions."""
    given = {setting: values[name] for setting, name in names.items() if values[name] is not None}
    for flag in ("dora", "rslora"):
        given[flag] = bool(given.get(flag, False))
    saved = given.pop("modules_to_save", None)
    return LoraOptions(**given, targets=targets, modules_to_save=[saved] if isinstance(saved, str) else saved)
