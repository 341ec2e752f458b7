"""axolotl's YAML, as its release 0.21.0 reads it.

Defaults and what they make of each other: axolotl/utils/schemas/{config,training,peft,validation}.py,
utils/config/__init__.py (dtype, reentrant), loaders/model.py (double quantization), core/builders. Packed rows are one
row of micro_batch_size x sequence_len tokens.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from inspector.records.request import LoraOptions
from inspector.records.training_file import Origin
from inspector.training_files.fields import (
    MORE,
    UNKNOWN,
    Framework,
    Settings,
    Values,
)
from inspector.training_files.frameworks.axolotl_fields import FIELDS
from inspector.training_files.frameworks.fsdp import hold_packed_in
from inspector.training_files.frameworks.losses import LORA_KERNELS, choose_lora_kernels, settle_axolotl_loss
from inspector.training_files.frameworks.meshes import settle_sizes_of_axolotl
from inspector.training_files.frameworks.shared import (
    ALLOCATOR,
    read_lora,
    read_others,
    settle_attention,
    settle_groups,
    settle_optimizer,
    settle_reentrant,
    settle_sharding,
    spell_fields,
)
from inspector.training_files.frameworks.stages import miss_stage, settle_generation, settle_rows
from inspector.training_files.packing import assume_documents

__all__ = ["AXOLOTL"]

_OTHERS = read_others("axolotl")
_LORA = {
    "r": "lora_r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "dora": "peft_use_dora",
    "rslora": "peft_use_rslora",
    "modules_to_save": "lora_modules_to_save",
}
_STAGES = {"dpo": "dpo", "ipo": "dpo", "simpo": "cpo", "kto": "kto", "orpo": "orpo", "grpo": "grpo", "gdpo": "grpo"}
# The release whose kernels are traced.
_RELEASE_OF_KERNELS = "0.21"
# Of the patterns of `unfrozen_parameters` (utils/freeze.py, LayerNamePattern).
_RANGE, _DOT = re.compile(r"\[[0-9:]*\]$"), re.compile(r"\.(?![+*])")


def _settle(values: Values, settings: Settings) -> None:
    """Make the step of axolotl's trainer."""
    fields = settings.fields
    stage = str(values["rl"] or "").lower()
    settings.stage = _STAGES.get(stage, stage) or ("reward" if values["reward_model"] else "sft")
    _settle_dtype(values, settings)
    settle_optimizer(values, settings, "optimizer")
    arguments = values["optim_args"]
    if isinstance(arguments, dict) and fields.get("optimizer") == "galore_adamw":
        fields["optim_args"] = ",".join(f"{name}={value}" for name, value in arguments.items())
    elif not isinstance(arguments, str):
        fields.pop("optim_args", None)
    _settle_attention(values, settings)
    _settle_checkpointing(values, settings)
    # core/builders/causal.py leaves nothing to Trainer.
    settle_sharding(values, settings, fsdp_version=1, finds_unused=None if stage else False)
    settle_sizes_of_axolotl(values, settings)
    _settle_adapter(values, settings)
    _settle_rows(values, settings)
    settle_axolotl_loss(values, settings)
    settle_groups(settings, "loraplus_lr_ratio")
    _settle_what_trains(values, settings)
    _settle_packed_on_host(values, settings)
    settings.fields["preparation"] = "none" if _is_left_unprepared(values, settings) else "axolotl"
    if not values["sample_packing"]:
        settings.fields["attention_mask"] = True
    if stage:
        miss_stage(settings, values.spell("rl"), settings.stage, Origin.FILE)
    if settings.stage == "grpo":
        _settle_generation(values, settings)
    _settle_lora_kernels(values, settings)


def _settle_packed_on_host(values: Values, settings: Settings) -> None:
    """Note that a packed base is loaded in host memory where rank 0 alone loads it (loaders/model.py:1305).

    It has no device map for the card then. FSDP2 shards a packed base by a function of axolotl's own.
    """
    config = values["fsdp_config"] if isinstance(values["fsdp_config"], dict) else {}
    names = ("cpu_ram_efficient_loading", "fsdp_cpu_ram_efficient_loading")
    is_on_host = any(str(config.get(name)).lower() == "true" for name in names)
    if is_on_host and settings.fields.get("sharding") == "fsdp1" and values["adapter"] == "qlora":
        settings.fields.setdefault("sharding_settings", {})["packed_on_host"] = True


def _is_left_unprepared(values: Values, settings: Settings) -> bool:
    """Tell whether a packed base is left as it was loaded, so that all of it has one dtype (loaders/model.py:1422)."""
    sharding, config = settings.fields.get("sharding"), values["fsdp_config"]
    if not values["adapter"] or sharding not in ("fsdp", "fsdp1"):
        return bool(values["adapter"]) and sharding == "zero3"
    names = ("cpu_ram_efficient_loading", "fsdp_cpu_ram_efficient_loading")
    return values["adapter"] == "qlora" or (isinstance(config, dict) and any(config.get(name) for name in names))


def _settle_generation(values: Values, settings: Settings) -> None:
    """Take rows, reference and engine of GRPO from the arguments of TRL; 1.14 is the release that runs."""
    arguments = values["trl"] if isinstance(values["trl"], dict) else {}
    answer, length = arguments.get("max_completion_length") or 512, values["sequence_len"]
    prompt = length - answer if isinstance(answer, int) else None
    settle_rows(settings, prompt, arguments.get("num_generations"))
    if arguments.get("beta"):
        settings.fields["reference"] = "model" if settings.fields.get("peft") is None else "adapter"
    if arguments.get("use_vllm"):
        mode = str(arguments.get("vllm_mode") or "colocate")
        settle_generation(settings, mode, arguments.get("vllm_gpu_memory_utilization") or 0.3)


def _settle_dtype(values: Values, settings: Settings) -> None:
    """Take the dtype of the weights, which follows from how it computes (utils/config/__init__.py:150)."""
    bf16 = values["bf16"]
    if bf16 not in (True, False, None, "auto", "full", "true", "false"):
        raise values.refuse("bf16", "true, false, auto or full")
    is_half = bool(values["fp16"] or values["float16"])
    if is_half and not values.has("bf16"):
        bf16 = False
    is_brain = bf16 not in (False, None, "false") or bool(values["bfloat16"])
    settings.fields["dtype"] = "bfloat16" if is_brain else "float16" if is_half else "float32"
    autocast = "bf16" if bf16 in (True, "auto", "true") else "fp16" if values["fp16"] and not is_brain else "no"
    settings.fields["mixed_precision"] = autocast


def _settle_attention(values: Values, settings: Settings) -> None:
    """Take the attention implementation from its name, or from the older flags."""
    settle_attention(values, settings, "attn_implementation")
    if "attention" not in settings.fields:
        for name, meant in (
            ("flash_attention", "flash_attention_2"),
            ("eager_attention", "eager"),
            ("sdp_attention", "sdpa"),
        ):
            if values[name]:
                settings.fields["attention"] = meant


def _settle_checkpointing(values: Values, settings: Settings) -> None:
    """Take whether blocks are computed again; a word says where their inputs are kept."""
    given = values["gradient_checkpointing"]
    if given not in (True, False, None, "true", "false", "unsloth", "offload", "offload_disk"):
        raise values.refuse("gradient_checkpointing", "true, false, offload or offload_disk")
    fields = settings.fields
    fields["gradient_checkpointing"] = given not in (False, None, "false")
    fields.pop("offload", None)
    where = values["activation_offloading"] or given in ("offload", "offload_disk")
    if where == "hidden_states" or (not where and given == "unsloth"):
        fields["offload"] = "checkpoints"
    elif where:
        # With an adapter nothing is computed again; without one the blocks are still checkpointed (loaders/model.py).
        fields |= {"offload": "activations", "gradient_checkpointing": values["adapter"] is None}
        name = "activation_offloading" if values["activation_offloading"] else "gradient_checkpointing"
        if values["adapter"] is not None:
            settings.miss(
                values.spell(name), where, UNKNOWN, "views of frozen weights leave the card, too", Origin.FILE
            )
    settle_reentrant(values, settings)
    kept = values["selective_checkpointing"]
    settings.fields.pop("checkpoint_keeps", None)
    if kept is True or (isinstance(kept, dict) and kept.get("save", ["attention"]) == ["attention"] and len(kept) < 2):
        settings.fields["checkpoint_keeps"] = "attention"
    elif kept:
        settings.miss("selective_checkpointing", kept, MORE, "what is saved is computed again here", Origin.FILE)


def _settle_adapter(values: Values, settings: Settings) -> None:
    """Take the adapter and how its base is packed."""
    fields, adapter = settings.fields, values["adapter"]
    for name in ("peft", "quantization", "double_quant"):
        fields.pop(name, None)
    if adapter is not None and adapter.lower() not in ("lora", "qlora", "dora"):
        settings.miss(
            "adapter", adapter, UNKNOWN, "an adapter that is not read here: full training is traced", Origin.FILE
        )
    elif adapter is not None:
        targets = values["lora_target_modules"]
        if values["lora_target_linear"]:
            targets = "all-linear"
        fields["peft"] = dataclasses.replace(read_lora(values, _LORA, targets=targets), by_name=True)
    if values["load_in_4bit"] or (adapter == "qlora" and not values["load_in_8bit"] and not values.has("load_in_4bit")):
        keywords = values["bnb_config_kwargs"] or {}
        fields["quantization"] = "fp4" if keywords.get("bnb_4bit_quant_type") == "fp4" else "nf4"
        fields["double_quant"] = bool(keywords.get("bnb_4bit_use_double_quant", True))
        hold_packed_in(fields, "bfloat16")  # loaders/model.py
    elif values["load_in_8bit"]:
        fields["quantization"] = "int8"


def _settle_what_trains(values: Values, settings: Settings) -> None:
    """Take the weights that are not frozen: patterns that are matched from the start of a name, dots as they are.

    A range of rows (`[:32000]`) is of gradients that are set to 0, and takes as much as the whole.
    """
    settings.fields.pop("train_only", None)
    given = values["unfrozen_parameters"]
    if given is None:
        return
    if values["adapter"] is not None:  # whose names all begin with base_model.model
        why = "names of an adapter's model begin otherwise, so that these patterns match none: the adapter is traced"
        settings.miss("unfrozen_parameters", given, UNKNOWN, why, Origin.FILE)
        return
    patterns = [given] if isinstance(given, str) else given
    settings.fields["train_only"] = [f"^(?:{_DOT.sub('[.]', _RANGE.sub('', pattern))})" for pattern in patterns]


def _settle_rows(values: Values, settings: Settings) -> None:
    """Take the rows of a micro-batch: packed ones are one row."""
    fields = settings.fields
    micro, length = values["micro_batch_size"], values["sequence_len"]
    total = values["batch_size"]
    fields["batch_size"] = micro
    if total is not None and not values.has("gradient_accumulation_steps"):
        fields["gradient_accumulation"] = max(total // micro, 1)
    else:
        fields["gradient_accumulation"] = values["gradient_accumulation_steps"]
    for name in ("padding", "packing"):
        fields.pop(name, None)
    if values["sample_packing"]:
        fields |= {"batch_size": 1, "seq_len": micro * length}
        assume_documents(settings, micro * length)


def _settle_lora_kernels(values: Values, settings: Settings) -> None:
    """Take the fused kernels of layers with LoRA, all of them where none is named (validation.py, auto-enable)."""
    fields = settings.fields
    fields.pop("lora_kernels", None)
    kernels = tuple(kernel for kernel in LORA_KERNELS if values[f"lora_{kernel}_kernel"])
    names = values.names & {f"lora_{kernel}_kernel" for kernel in (*LORA_KERNELS, "embedding")}
    if not any(values.given.get(name) is not None for name in names):
        kernels = choose_lora_kernels(
            values.given, is_lora=fields.get("peft") is not None, is_int8=fields.get("quantization") == "int8"
        )
        if kernels:
            settings.assume("lora kernels", ", ".join(kernels), "lora_kernels")
    targets = fields["peft"].targets if isinstance(fields.get("peft"), LoraOptions) else None
    if not isinstance(targets, (list, tuple)) or not set(targets) & {"embed_tokens", "lm_head"}:
        settings.silent.add("lora_embedding_kernel")
    if kernels and fields.get("peft") is not None:
        fields["lora_kernels"] = kernels
        if not values.is_at_least(_RELEASE_OF_KERNELS):
            why = "their gradients were added up otherwise before: those of 0.21 are traced"
            settings.miss("lora kernels", values.version, UNKNOWN, why)


def _spell(change: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a change in fields of an axolotl file."""
    packed = bool(given.get("sample_packing"))
    length = given.get("sequence_len", 512)
    spelt = spell_fields(change, _SPELLING)
    if packed and "seq_len" in change:
        rows, rest = divmod(change["seq_len"], length)
        spelt.pop("sequence_len", None)
        spelt |= (
            {"micro_batch_size": rows}
            if rows and not rest
            else {"micro_batch_size": 1, "sequence_len": change["seq_len"]}
        )
    elif packed and "batch_size" in change:
        spelt["micro_batch_size"] = change["batch_size"] * given.get("micro_batch_size", 1)
    if "quantization" in change:
        spelt["load_in_4bit"] = change["quantization"] in ("nf4", "fp4")
        if given.get("load_in_8bit"):
            spelt["load_in_8bit"] = False
        if given.get("adapter") or change.get("peft"):
            spelt["adapter"] = "qlora" if spelt["load_in_4bit"] else "lora"
    if "peft" in change:
        lora = change["peft"]
        if lora is None:
            spelt["adapter"] = None
        elif isinstance(lora, LoraOptions):
            if not given.get("adapter"):
                spelt.setdefault("adapter", "qlora" if given.get("load_in_4bit") else "lora")
            spelt |= {"lora_r": lora.r, "lora_alpha": lora.alpha or lora.r}
            spelt |= {"lora_target_linear": True} if lora.targets == "all-linear" else {}
    if "attention" in change and "flash_attention" in given:
        spelt.pop("attn_implementation", None)
        spelt["flash_attention"] = change["attention"] == "flash_attention_2"
    return spelt


_SPELLING = {
    "batch_size": "micro_batch_size",
    "seq_len": "sequence_len",
    "gradient_accumulation": "gradient_accumulation_steps",
    "optimizer": "optimizer",
    "gradient_checkpointing": "gradient_checkpointing",
    "attention": "attn_implementation",
    "alloc_conf": ALLOCATOR,
}

AXOLOTL = Framework(
    name="axolotl",
    package="axolotl",
    newest="0.21.0",
    fields=FIELDS,
    others=_OTHERS,
    settle=_settle,
    spell=_spell,
)
