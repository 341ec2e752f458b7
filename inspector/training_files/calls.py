"""The calls of a script -> fields of a framework's table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inspector.training_files.scripts import OTHER_TRAINERS, Calls

__all__ = ["Spread", "find_framework", "find_other_trainer", "spread_calls"]

_AS_THEY_ARE = {name: name for name in ("dtype", "attn_implementation", "load_in_4bit", "load_in_8bit")}
# What the arguments of a call are called in the table of TRL, where they differ.
_OF_THE_CALLS: Mapping[str, Mapping[str, str]] = {
    "load": {"model_name": "model_name_or_path", "revision": "model_revision", "torch_dtype": "dtype", **_AS_THEY_ARE},
    "peft": {
        "r": "lora_r",
        "lora_alpha": "lora_alpha",
        "lora_dropout": "lora_dropout",
        "bias": "lora_bias",
        "target_modules": "lora_target_modules",
        "modules_to_save": "lora_modules_to_save",
        "use_rslora": "use_rslora",
        "use_dora": "use_dora",
        "task_type": "lora_task_type",
    },
    "quant": {"bnb_4bit_use_double_quant": "use_bnb_nested_quant"},
    "args": {},
    "trainer": {"model": "model_name_or_path", "max_seq_length": "max_length", "packing": "packing"},
}
# Arguments of the calls that are of no memory.
_OF_NO_MEMORY = ("trust_remote_code", "device_map", "low_cpu_mem_usage", "token", "cache_dir")
_STAGES = re.compile(r"^(SFT|DPO|ORPO|KTO|GRPO|RLOO|CPO|Reward|PPO)")


def find_framework(calls: Calls) -> str | None:
    """Return whose script it is; None where it sets up no training that can be read."""
    if "unsloth" in calls.modules and calls.arguments:
        return "unsloth"
    if _find_stage(calls) is not None:
        return "trl"
    return "transformers" if "args" in calls.arguments or "trainer" in calls.arguments else None


def find_other_trainer(calls: Calls) -> str | None:
    """Return a trainer of TRL whose step is another one than those that are known, None where none is called."""
    called = calls.called.get("trainer", "")
    return called if OTHER_TRAINERS.fullmatch(called) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The arguments of calls as fields, how each is spelt in the script, and the defaults of what was called.

    `stage` is that of the trainer.
    """

    document: Mapping[str, Any]
    spelled: Mapping[str, str]
    defaults: Mapping[str, Any]
    stage: str


def spread_calls(calls: Calls, framework: str) -> Spread:
    """Return what the arguments of calls mean for a framework."""
    document: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    defaults: dict[str, Any] = {}
    for kind in ("load", "quant", "peft", "args", "trainer"):
        for argument, value in calls.arguments.get(kind, {}).items():
            name = _name_field(kind, argument, framework)
            if name is not None and name not in document:
                document[name] = value
                spelled[name] = f"{argument} in {calls.called[kind]}"
    if framework != "unsloth" and "peft" in calls.arguments:
        document["use_peft"], spelled["use_peft"] = True, calls.called["peft"]
        defaults |= _DEFAULTS_OF_PEFT
    if framework != "unsloth" and "load" in calls.arguments:  # its own dtype, not that of TRL's command
        defaults["dtype"] = "auto"
    return Spread(document=document, spelled=spelled, defaults=defaults, stage=_find_stage(calls) or "sft")


_DEFAULTS_OF_PEFT = {"lora_r": 8, "lora_alpha": 8, "lora_dropout": 0.0}


def _name_field(kind: str, argument: str, framework: str) -> str | None:
    """Return the field of a table that an argument is."""
    if framework == "unsloth":
        return f"{kind}.{argument}"
    if argument in _OF_NO_MEMORY and kind != "args":
        return None
    if kind in ("args", "quant"):
        return _OF_THE_CALLS[kind].get(argument, argument)
    return _OF_THE_CALLS[kind].get(argument)


def _find_stage(calls: Calls) -> str | None:
    """Return the stage of the trainer or of its arguments, None where they are transformers' own."""
    for kind in ("trainer", "args"):
        match = _STAGES.match(calls.called.get(kind, ""))
        if match:
            return match[1].lower()
    return None
