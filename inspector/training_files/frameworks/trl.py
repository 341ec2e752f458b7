"""TRL's command and its configurations, and transformers' TrainingArguments in a script of one's own.

Defaults are those of TRL's tags 0.9 to 1.16 (trainer/{base,sft,dpo,grpo,kto,reward}_config.py, model_config.py), where
they moved by the release that moved them. A file of `trl sft --config` holds fields of SFTConfig and ModelConfig.
Before 0.27 a weight's dtype is taken as stored, which is what transformers 5 does with none.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from inspector.records.request import LoraOptions
from inspector.records.training_file import Origin, UnreadField
from inspector.training_files.fields import (
    ANY,
    COUNT,
    FLAG,
    LESS,
    MAPPING,
    MORE,
    NAMES,
    NUMBER,
    TEXT,
    UNKNOWN,
    Field,
    Framework,
    Settings,
    Values,
    misses,
    reads,
)
from inspector.training_files.frameworks.losses import settle_liger, settle_trl_loss, settle_trl_preparation
from inspector.training_files.frameworks.shared import (
    ALLOCATOR,
    DTYPES,
    OF_TRAINING_ARGUMENTS,
    OTHERS_OF_TRAINING_ARGUMENTS,
    read_lora,
    read_others,
    settle_attention,
    settle_optimizer,
    settle_precision,
    settle_reentrant,
    settle_sharding,
    spell_fields,
)
from inspector.training_files.frameworks.stages import miss_stage, settle_trl_stage
from inspector.training_files.packing import assume_documents

__all__ = ["TRANSFORMERS", "TRL"]

_MOVED = {
    "bf16": {"0": False, "0.19": True},  # unless fp16 is on
    "gradient_checkpointing": {"0": False, "0.22": True},
}
_OF_THE_MODEL: tuple[Field, ...] = (
    reads("model_name_or_path", TEXT, "model", aliases=("model",)),
    reads("model_revision", TEXT, "revision"),
    reads("dtype", TEXT, "dtype", since={"0": "auto", "0.27": "float32"}, aliases=("torch_dtype",)),
    reads("attn_implementation", TEXT, "attention"),
    reads("use_flash_attention_2", FLAG, "attention"),  # of alignment-handbook's older recipes
    reads("load_in_4bit", FLAG, "quantization", default=False),
    reads("load_in_8bit", FLAG, "quantization", default=False),
    reads("bnb_4bit_quant_type", TEXT, "quantization", default="nf4"),
    reads("use_bnb_nested_quant", FLAG, "double_quant", default=False, aliases=("bnb_4bit_use_double_quant",)),
    reads("bnb_4bit_quant_storage", TEXT, "quant_storage"),
    reads("use_peft", FLAG, "peft", default=False),
    reads("lora_r", COUNT, "peft.r", default=16),
    reads("lora_alpha", NUMBER, "peft.alpha", default=32),
    reads("lora_dropout", NUMBER, "peft.dropout", default=0.05),
    reads("lora_target_modules", NAMES, "peft.targets"),
    reads("lora_modules_to_save", NAMES, "peft.modules_to_save"),
    reads("use_rslora", FLAG, "peft.rslora"),
    reads("use_dora", FLAG, "peft.dora"),
    reads("lora_bias", TEXT, "peft.bias"),
    reads("model_init_kwargs", ANY, "dtype"),
)
_OF_THE_STEP: tuple[Field, ...] = (
    reads("max_length", COUNT, "seq_len", default=1024, aliases=("max_seq_length",)),
    reads("env", MAPPING, "alloc_conf"),
    reads("packing", FLAG, "packing"),
    reads("packing_strategy", TEXT, "packing", since={"0": "wrapped", "0.19": "bfd"}),
    reads("padding_free", FLAG, "packing"),
    reads("activation_offloading", FLAG, "offload"),
    # Not modelled.
    misses("pad_to_multiple_of", MORE, "sequences are padded to a multiple"),
    reads("loss_type", ANY, "loss", effect=UNKNOWN, why="another loss"),
    reads(
        "precompute_ref_log_probs", FLAG, "reference", default=False, effect=LESS, why="no reference pass in the step"
    ),
    reads("max_prompt_length", ANY, "prompt_len", effect=UNKNOWN, why="how a sequence is truncated"),
    reads("max_completion_length", ANY, "completion_len", effect=UNKNOWN, why="how long an answer is"),
    reads("num_generations", ANY, "num_generations", effect=MORE, why="answers are generated in the step"),
    misses("steps_per_generation", MORE, "sequences of one generation"),
    reads("beta", NUMBER, "reference", effect=MORE, why="a reference pass beside the policy's"),
    reads("cpo_alpha", NUMBER, "stage"),
    misses("rpo_alpha", MORE, "a supervised loss beside the preference's"),
    misses("sync_ref_model", MORE, "a second model as reference", kind=FLAG),
    reads("use_vllm", FLAG, "vllm_share", effect=MORE, why="vLLM's share of the card"),
    reads("vllm_gpu_memory_utilization", ANY, "vllm_share", effect=MORE, why="vLLM's share of the card"),
    reads("vllm_mode", ANY, "vllm_share", effect=UNKNOWN, why="whether vLLM is on the same card"),
    misses("use_logits_to_keep", LESS, "logits of the answers alone"),
    misses("ref_model_init_kwargs", MORE, "a second model as reference"),
    misses("disable_dropout", LESS, "no dropout masks", off=(True,)),
    misses("eos_token", MORE, "the embedding grows where the token is new", off=("<|im_end|>", "<|eot_id|>", "</s>")),
    misses("chat_template_path", MORE, "the embedding grows where its tokens are new"),
    misses("router_aux_loss_coef", MORE, "routers' logits are kept, and a loss of them", kind=NUMBER),
    misses("lora_target_parameters", MORE, "experts' parameters have adapters, too"),
    misses("cast_lm_head_to_fp32", MORE, "the head and its input in float32", kind=FLAG),
    misses("vllm_enable_sleep_mode", LESS, "vLLM's share is given back during the update", kind=FLAG),
    misses("lora_task_type", UNKNOWN, "another head", off=("CAUSAL_LM",)),
)
_OTHERS = OTHERS_OF_TRAINING_ARGUMENTS | read_others("trl")
_LORA = {
    "r": "lora_r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "bias": "lora_bias",
    "dora": "use_dora",
    "rslora": "use_rslora",
    "modules_to_save": "lora_modules_to_save",
}
_LOSSES_OF_GRPO = ("grpo", "dapo", "dr_grpo", "bnpo")
_LOSSES_OF_DPO = ("sigmoid", "ipo", "hinge", "robust", "apo_zero", "apo_down", "exo_pair", "nca_pair", "sppo_hard")
_OF_PREFERENCE = {"precompute_ref_log_probs", "max_prompt_length", "ref_model_init_kwargs", "rpo_alpha", "beta"}
_OF_REWARDS = "center_rewards_coefficient"


def find_stage(values: Values) -> str:
    """Return the stage that the fields of a file are of: sft, where they say no other.

    ORPO, CPO and KTO have few fields that DPO lacks: a folder or a file of their name tells them apart.
    """
    names, loss = values.names, values["loss_type"]
    if names & {"num_generations", "reward_funcs", "reward_weights"} or loss in _LOSSES_OF_GRPO:
        return "grpo"
    if names & {"cpo_alpha", "simpo_gamma"}:
        return "cpo"
    if names & {"desirable_weight", "undesirable_weight"}:
        return "kto"
    if names & _OF_PREFERENCE or isinstance(loss, list) or loss in _LOSSES_OF_DPO:
        words = re.split(r"[^a-z]+", values.path.lower())
        return next((stage for stage in ("orpo", "cpo", "kto") if stage in words), "dpo")
    return "grpo" if "max_completion_length" in names else "reward" if _OF_REWARDS in names else "sft"


def _settle(values: Values, settings: Settings) -> None:
    """Make the step of TRL's trainers."""
    fields = settings.fields
    settings.stage = settings.stage or find_stage(values)
    settings.silent |= {"max_prompt_length", "max_completion_length"}
    if settings.stage == "cpo" and values.given.get("cpo_alpha") == 0:
        why = "without it the chosen answers have no loss of their own: CPO with one is traced"
        settings.miss("cpo_alpha", 0, LESS, why, Origin.FILE)
    if "max_length" in values.given and values.given["max_length"] is None:
        settings.unread.append(UnreadField(name=values.spell("max_length"), assumed="sequences of 1,024 tokens"))
    fields["dtype"] = values.choose("dtype", DTYPES)
    settle_attention(values, settings, "attn_implementation")
    if values["use_flash_attention_2"]:
        fields.setdefault("attention", "flash_attention_2")
    _settle_model_arguments(values, settings)
    settle_optimizer(values, settings, "optim")
    settle_precision(values, settings)
    fields["gradient_checkpointing"] = bool(values["gradient_checkpointing"])
    settle_reentrant(values, settings)
    settle_sharding(values, settings)
    settle_quantization(values, settings)
    fields.pop("peft", None)
    if values["use_peft"]:
        targets = values["lora_target_modules"]
        if isinstance(targets, list) and len(targets) == 1:
            targets = targets[0] if targets[0] == "all-linear" else targets
        fields["peft"] = read_lora(values, _LORA, targets=targets)
    settle_packing(values, settings)
    if values["activation_offloading"]:
        fields["offload"] = "activations"
    elif fields.get("offload") is False:
        del fields["offload"]
    environment = values["env"] or {}
    fields.pop("alloc_conf", None)
    if isinstance(environment.get(ALLOCATOR), str):
        fields["alloc_conf"] = environment[ALLOCATOR]
    _settle_rows(values, settings)
    settle_trl_loss(values, settings)
    settle_trl_stage(values, settings)
    settle_trl_preparation(values, settings)
    _miss_what_trl_does(values, settings)


def _settle_model_arguments(values: Values, settings: Settings) -> None:
    """Take what `model_init_kwargs` says of the model."""
    arguments = values["model_init_kwargs"]
    if not isinstance(arguments, dict):
        return
    dtype = arguments.get("dtype", arguments.get("torch_dtype"))
    if isinstance(dtype, str) and dtype.lower() in DTYPES:
        settings.fields["dtype"] = DTYPES[dtype.lower()]
    attention = arguments.get("attn_implementation")
    if isinstance(attention, str):
        settings.fields["attention"] = attention if attention in ("sdpa", "eager") else "flash_attention_2"


def settle_packing(values: Values, settings: Settings) -> None:
    """Take how documents lie in a row: a strategy that keeps them whole makes the batch padding-free."""
    fields = settings.fields
    for name in ("padding", "packing"):
        fields.pop(name, None)
    if values["packing"]:
        fields["padding"] = False
        if values["packing_strategy"] != "wrapped":
            assume_documents(settings, fields["seq_len"])
    elif values["padding_free"]:
        fields |= {"packing": 1, "padding": False}


def settle_quantization(values: Values, settings: Settings) -> None:
    """Take how bitsandbytes packs the weights."""
    settings.fields.pop("quantization", None)
    settings.fields.pop("double_quant", None)
    settings.fields.pop("quant_storage", None)
    if values["load_in_4bit"]:
        settings.fields["quantization"] = values.choose("bnb_4bit_quant_type", {"nf4": "nf4", "fp4": "fp4"})
        settings.fields["double_quant"] = bool(values["use_bnb_nested_quant"])
        if isinstance(storage := values["bnb_4bit_quant_storage"], str):
            settings.fields["quant_storage"] = storage
    elif values["load_in_8bit"]:
        settings.fields["quantization"] = "int8"


def _settle_rows(values: Values, settings: Settings) -> None:
    """Take how long a row is in the stages that generate."""
    if settings.stage not in ("grpo", "rloo"):
        return
    completion = values["max_completion_length"] or (512 if values.is_at_least("1.10") else 256)
    prompt = values["max_prompt_length"] or 512
    if isinstance(completion, int) and isinstance(prompt, int) and not values.has("max_length"):
        settings.fields["seq_len"] = prompt + completion


def _miss_what_trl_does(values: Values, settings: Settings) -> None:
    """Note what the trainers do by themselves and no field says."""
    miss_stage(settings, "stage", settings.stage or "sft", Origin.DEFAULT)


def _spell(change: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a change in fields of a TRL file."""
    spelt = spell_fields(change, _SPELLING)
    if "quantization" in change:
        spelt["load_in_4bit"] = change["quantization"] in ("nf4", "fp4")
        if change["quantization"] is None and given.get("load_in_8bit"):
            spelt["load_in_8bit"] = False
    if "peft" in change:
        lora = change["peft"]
        spelt["use_peft"] = lora is not None
        if isinstance(lora, LoraOptions):
            spelt |= {"lora_r": lora.r, "lora_target_modules": lora.targets}
    if change.get("use_reentrant") is not None:
        spelt["gradient_checkpointing_kwargs"] = {"use_reentrant": change["use_reentrant"]}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in spelt.items()}


_SPELLING = {
    "batch_size": "per_device_train_batch_size",
    "seq_len": "max_length",
    "gradient_accumulation": "gradient_accumulation_steps",
    "optimizer": "optim",
    "gradient_checkpointing": "gradient_checkpointing",
    "attention": "attn_implementation",
    "dtype": "dtype",
    "double_quant": "use_bnb_nested_quant",
    "alloc_conf": ALLOCATOR,
}


def _with_moved_defaults(item: Field) -> Field:
    """Return a field of TrainingArguments with TRL's default."""
    if item.name not in _MOVED:
        return item
    return dataclasses.replace(item, default_since=_MOVED[item.name])


TRL = Framework(
    name="TRL",
    package="trl",
    newest="1.16.0",
    fields=(*_OF_THE_MODEL, *map(_with_moved_defaults, OF_TRAINING_ARGUMENTS), *_OF_THE_STEP),
    others=_OTHERS,
    gone={"max_seq_length": "0.20", "max_prompt_length": "0.29"},
    settle=_settle,
    spell=_spell,
)


def _settle_own_loop(values: Values, settings: Settings) -> None:
    """Make the step of transformers' Trainer: nothing but what the arguments say."""
    _settle_without_trl(values, settings)
    if not values["gradient_checkpointing"]:  # a Trainer leaves it as it finds it
        settings.fields.pop("gradient_checkpointing", None)
        settings.fields.pop("use_reentrant", None)


def _settle_without_trl(values: Values, settings: Settings) -> None:
    settings.stage = settings.stage or "sft"
    settings.fields["dtype"] = values.choose("dtype", DTYPES)
    settle_attention(values, settings, "attn_implementation")
    settle_optimizer(values, settings, "optim")
    settle_precision(values, settings)
    settle_reentrant(values, settings)
    settle_sharding(values, settings)
    settle_quantization(values, settings)
    settle_liger(values, settings)
    settings.fields.pop("peft", None)
    if values["use_peft"]:
        settings.fields["peft"] = read_lora(values, _LORA, targets=values["lora_target_modules"])


def _without_default(item: Field) -> Field:
    """Return a field of the model as a script of one's own has it: nothing but what it says."""
    defaults = {"0": "auto"} if item.name == "dtype" else {}
    return dataclasses.replace(item, default_since=defaults)


TRANSFORMERS = Framework(
    name="transformers",
    package="transformers",
    newest="5.23.0",
    fields=(
        *map(_without_default, _OF_THE_MODEL),
        *OF_TRAINING_ARGUMENTS,
        reads("max_length", COUNT, "seq_len", aliases=("max_seq_length",)),
    ),
    others=_OTHERS,
    settle=_settle_own_loop,
    spell=_spell,
)
