"""LLaMA-Factory's YAML and JSON, as its release 0.9.5 reads them.

Defaults: src/llamafactory/hparams/{model,finetuning,data}_args.py; what they make of each other:
model/{adapter,loader,patcher}.py, model/model_utils/{checkpointing,attention,quantization}.py. What trains becomes
float32 but under `pure_bf16` and BAdam; checkpointing is on, and reentrant, unless it is disabled.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from inspector.records.request import LoraOptions
from inspector.records.training_file import Origin
from inspector.training_files.fields import (
    ANY,
    COUNT,
    FLAG,
    LESS,
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
from inspector.training_files.frameworks.fsdp import hold_packed_in
from inspector.training_files.frameworks.losses import read_liger
from inspector.training_files.frameworks.shared import (
    ALLOCATOR,
    OF_TRAINING_ARGUMENTS,
    OTHERS_OF_TRAINING_ARGUMENTS,
    read_lora,
    read_others,
    settle_groups,
    settle_optimizer,
    settle_precision,
    settle_sharding,
    spell_fields,
)
from inspector.training_files.frameworks.stages import miss_stage
from inspector.training_files.packing import assume_documents

__all__ = ["LLAMAFACTORY"]

_FIELDS: tuple[Field, ...] = (
    reads("model_name_or_path", TEXT, "model"),
    reads("model_revision", TEXT, "revision"),
    reads("stage", TEXT, "stage", default="sft"),
    reads("finetuning_type", TEXT, "peft", default="lora"),
    reads("lora_rank", COUNT, "peft.r", default=8),
    reads("lora_alpha", NUMBER, "peft.alpha"),
    reads("lora_dropout", NUMBER, "peft.dropout", default=0.0),
    reads("lora_target", NAMES, "peft.targets", default="all"),
    reads("additional_target", NAMES, "peft.modules_to_save"),
    reads("use_rslora", FLAG, "peft.rslora"),
    reads("use_dora", FLAG, "peft.dora"),
    reads("oft_rank", ANY, "peft.r"),
    reads("oft_block_size", COUNT, "peft.oft_block_size", default=32),
    reads("oft_target", NAMES, "peft.targets", default="all"),
    reads("cutoff_len", COUNT, "seq_len", default=2048),
    reads("pure_bf16", FLAG, "dtype", default=False),
    reads("quantization_bit", COUNT, "quantization"),
    reads("quantization_type", TEXT, "quantization", default="nf4"),
    reads("double_quantization", FLAG, "double_quant", default=True),
    reads("flash_attn", ANY, "attention", default="auto"),
    reads("disable_gradient_checkpointing", FLAG, "gradient_checkpointing", default=False),
    reads("use_reentrant_gc", FLAG, "use_reentrant", default=True),
    reads("packing", FLAG, "padding"),
    reads("use_muon", FLAG, "optimizer"),
    reads("use_adam_mini", FLAG, "optimizer"),
    reads("freeze_trainable_layers", ANY, "train_only"),
    reads("freeze_trainable_modules", NAMES, "train_only"),
    reads("freeze_extra_modules", NAMES, "train_only"),
    reads("add_tokens", NAMES, "add_tokens"),
    reads("add_special_tokens", NAMES, "add_tokens"),
    reads("neat_packing", FLAG, "packing", effect=MORE, why="its collator makes the mask of all pairs of tokens"),
    misses(
        "quantization_method",
        UNKNOWN,
        "weights in another packed form",
        aliases=("quantization_backend",),
        off=("bnb", "bitsandbytes"),
    ),
    misses("use_galore", LESS, "GaLore's projected states: AdamW is traced", kind=FLAG),
    reads("galore_layerwise", FLAG, "optimizer"),
    reads("galore_rank", COUNT, "optim_args"),
    reads("galore_update_interval", COUNT, "optim_args"),
    reads("galore_scale", NUMBER, "optim_args"),
    reads("galore_proj_type", TEXT, "optim_args"),
    misses("use_apollo", LESS, "APOLLO's projected states: AdamW is traced", kind=FLAG),
    misses("use_badam", LESS, "one block trains at a time: all are traced", kind=FLAG),
    misses("use_dft_loss", MORE, "a loss that keeps probabilities, too", kind=FLAG),
    misses("use_asft_loss", MORE, "a reference model beside the loss", kind=FLAG),
    misses("use_eaft_loss", MORE, "entropies of the logits", kind=FLAG),
    misses("loraplus_lr_ratio", UNKNOWN, "parameters in more groups"),
    misses("freeze_vision_tower", LESS, "the vision tower is frozen", off=(True,)),
    misses("freeze_multi_modal_projector", LESS, "the projector is frozen", off=(True,)),
    misses("freeze_language_model", LESS, "the language model is frozen"),
    misses("use_llama_pro", LESS, "expanded blocks alone train", kind=FLAG),
    misses("pissa_init", UNKNOWN, "adapters that start otherwise", kind=FLAG),
    misses("resize_vocab", MORE, "the embedding and the head grow and train", kind=FLAG),
    misses("new_special_tokens", MORE, "the embedding and the head grow and train"),
    misses("upcast_layernorm", MORE, "norms in float32", kind=FLAG),
    misses("upcast_lmhead_output", MORE, "logits in float32", kind=FLAG),
    reads("enable_liger_kernel", FLAG, "liger"),
    misses("use_unsloth", LESS, "Unsloth's kernels keep less", kind=FLAG),
    misses("use_unsloth_gc", LESS, "checkpoints are kept in host memory", kind=FLAG),
    misses("shift_attn", LESS, "shifted sparse attention", kind=FLAG),
    misses("mixture_of_depths", LESS, "tokens skip layers"),
    misses("use_kv_cache", MORE, "a KV cache", off=(True,)),
    misses("moe_aux_loss_coef", MORE, "routers' logits are kept"),
    misses("rope_scaling", UNKNOWN, "longer positions"),
    misses("image_max_pixels", UNKNOWN, "how many tokens a picture is"),
    misses("video_max_pixels", UNKNOWN, "how many tokens a video is"),
    misses("ref_model", MORE, "a second model as reference"),
    misses("reward_model", MORE, "a second model for rewards"),
    misses("ref_model_quantization_bit", LESS, "a packed reference"),
    misses("pref_loss", LESS, "no reference runs: DPO's is traced", off=("sigmoid", "hinge", "ipo", "kto_pair")),
    misses("pref_ftx", MORE, "a supervised loss beside the preference's"),
    misses("adapter_name_or_path", UNKNOWN, "an adapter that is there already"),
    misses("fp8", UNKNOWN, "products in 8 bits", kind=FLAG),
    misses("use_kt", LESS, "experts are kept on the host", kind=FLAG),
    misses("predict_with_generate", MORE, "answers are generated in an evaluation", kind=FLAG),
)
_OTHERS = OTHERS_OF_TRAINING_ARGUMENTS | read_others("llamafactory")
_LORA = {
    "r": "lora_rank",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "dora": "use_dora",
    "rslora": "use_rslora",
    "modules_to_save": "additional_target",
}
_ATTENTION = {
    "auto": None,
    "fa2": "flash_attention_2",
    "sdpa": "sdpa",
    "disabled": "eager",
    "off": "eager",
    "false": "eager",
    False: "eager",
    "fa3": "flash_attention_2",
}
_STAGES = {"rm": "reward"}
# Names of models with a tower, which stays frozen unless a field says otherwise (`freeze_vision_tower`).
_WITH_TOWER = re.compile(
    r"vl\b|vision|llava|omni|pixtral|audio|minicpm-[vo]|gemma-?3(?!.*(1b|270m))|gemma-?4|llama-?4|glm.*v\b"
)


def _settle(values: Values, settings: Settings) -> None:
    """Make the step of LLaMA-Factory's trainers."""
    fields = settings.fields
    stage = values["stage"].lower()
    if stage not in ("pt", "sft", "rm", "ppo", "dpo", "kto"):
        raise values.refuse("stage", "pt, sft, rm, ppo, dpo or kto")
    settings.stage = _STAGES.get(stage, stage)
    settle_precision(values, settings)
    for name in ("optimizer", "optim_args"):
        fields.pop(name, None)
    if values["optim_args"] is not None:
        fields["optim_args"] = values["optim_args"]
    settle_optimizer(values, settings, "optim")
    for name in ("muon", "adam_mini"):
        if values[f"use_{name}"]:
            fields["optimizer"] = name
            fields.pop("optim_args", None)
    _settle_galore(values, settings)
    is_lora = values["finetuning_type"] in (None, "lora")  # hparams/parser.py
    settle_sharding(values, settings, finds_unused=False if is_lora else None)
    _settle_adapter(values, settings)
    fields.pop("attention", None)
    attention = values.choose("flash_attn", _ATTENTION)
    if attention is not None:
        fields["attention"] = attention
    is_on = not values["disable_gradient_checkpointing"]
    fields |= {"gradient_checkpointing": is_on, "use_reentrant": is_on and bool(values["use_reentrant_gc"])}
    for name in ("padding", "packing"):
        fields.pop(name, None)
    if values["neat_packing"]:
        assume_documents(settings, fields["seq_len"])
        if attention == "flash_attention_2":  # without a mask, by the positions alone (data/collator.py)
            settings.silent.add("neat_packing")
    elif values["packing"] or (
        stage == "pt" and values["packing"] is None
    ):  # a row of as many tokens, one after the other
        fields["padding"] = False
    settle_groups(settings, "loraplus_lr_ratio")
    _settle_tokens(values, settings)
    if stage == "pt":
        settings.silent.add("packing")
    fields.pop("liger", None)
    if values["enable_liger_kernel"]:  # model/model_utils/liger_kernel.py: other stages want the logits
        has_loss = stage in ("pt", "sft")
        fields |= read_liger(None, has_loss=has_loss)
        if not has_loss:
            why = "Liger's cross-entropy writes its gradient over the logits"
            settings.miss("cross_entropy", "Liger", LESS, why)
    fields["preparation"] = "none"
    if not values["pure_bf16"] and not values["use_badam"]:  # then PEFT's float32 stays, and copies are half precision
        fields["adapter_dtype"] = "float32"
    if not values["neat_packing"]:
        fields["attention_mask"] = True
    _miss_what_it_does(values, settings)


def _settle_galore(values: Values, settings: Settings) -> None:
    """Take GaLore's AdamW, with the defaults of its fields (hparams/finetuning_args.py); layerwise it is another."""
    is_adamw = settings.fields.get("optimizer") in ("adamw_torch", "adamw_torch_fused")
    if not values["use_galore"] or values["galore_layerwise"] or not is_adamw:
        return
    arguments = {
        "rank": values["galore_rank"] or 16,
        "update_proj_gap": values["galore_update_interval"] or 200,
        "scale": values["galore_scale"] or 2.0,
        "proj_type": values["galore_proj_type"] or "std",
    }
    text = ",".join(f"{name}={value}" for name, value in arguments.items())
    settings.fields |= {"optimizer": "galore_adamw", "optim_args": text}
    settings.silent.add("use_galore")
    why = "the head, and layers that galore_target leaves out, keep whole moments: all linear layers are projected"
    settings.miss("use_galore", True, MORE, why, Origin.FILE)


def _settle_adapter(values: Values, settings: Settings) -> None:
    """Take what trains, in which dtype, and how its base is packed."""
    fields, method = settings.fields, values["finetuning_type"].lower()
    for name in ("peft", "quantization", "double_quant", "modules_to_save", "train_only"):
        fields.pop(name, None)
    fields["dtype"] = "auto"
    if method == "lora":
        if not values.has("lora_alpha"):
            values.defaults["lora_alpha"] = 2 * values["lora_rank"]
        saved = _split(values["additional_target"])
        lora = read_lora(values, _LORA | {"modules_to_save": ""}, targets=_read_targets(values["lora_target"]))
        fields["peft"] = dataclasses.replace(lora, modules_to_save=saved, by_name=True)
    elif method == "oft":
        block = values["oft_block_size"]
        targets = _read_targets(values["oft_target"])
        rank = values["oft_rank"] or 0
        fields["peft"] = {"peft_type": "OFT", "r": rank, "oft_block_size": block, "target_modules": targets}
    elif method in ("full", "freeze"):
        is_pure = bool(values["pure_bf16"] or values["use_badam"])
        fields["dtype"] = "auto" if is_pure else "float32"
        has_frozen = method == "freeze" or _WITH_TOWER.search(str(values["model_name_or_path"]).lower()) is not None
        if not is_pure and values["bf16"] and has_frozen:
            why = "what trains is cast to float32 and the rest stays as stored: all is traced in float32"
            settings.miss("cast to float32", True, LESS, why)
        if method == "freeze":
            fields["train_only"] = _read_layers(values)
    else:
        raise values.refuse("finetuning_type", "lora, oft, freeze or full")
    bits = values["quantization_bit"]
    if bits == 4:
        fields["quantization"] = values.choose("quantization_type", {"nf4": "nf4", "fp4": "fp4"})
        fields["double_quant"] = bool(values["double_quantization"])
        # The dtype of products (model/model_utils/quantization.py).
        hold_packed_in(
            fields, {"bf16": "bfloat16", "fp16": "float16"}.get(str(fields.get("mixed_precision")), "float32")
        )
    elif bits == 8:
        fields["quantization"] = "int8"
    elif bits is not None:
        settings.miss("quantization_bit", bits, LESS, "weights in a packed form that is not traced", Origin.FILE)


def _read_layers(values: Values) -> list[str]:
    """Return what trains of a model whose rest is frozen: layers at its end or its start, and modules outside them."""
    count = values["freeze_trainable_layers"]
    count = 2 if count is None else count
    if type(count) is not int or count == 0:
        raise values.refuse("freeze_trainable_layers", "an integer, below 0 for the first layers")
    modules = _split(values["freeze_trainable_modules"]) or ["all"]
    if modules != ["all"]:
        raise values.refuse("freeze_trainable_modules", "all, which is what can be traced")
    extra = [re.escape(name) for name in _split(values["freeze_extra_modules"]) or ()]
    return [f"last={count}" if count > 0 else f"first={-count}", *extra]


def _settle_tokens(values: Values, settings: Settings) -> None:
    """Take the tokens that are added, for which the tables grow in units of 64 rows and train beside an adapter."""
    names = [name for field in ("add_tokens", "add_special_tokens") for name in _split(values[field]) or ()]
    settings.fields.pop("add_tokens", None)
    if not names:
        return
    settings.fields["add_tokens"] = -(-len(names) // 64) * 64
    lora = settings.fields.get("peft")
    if isinstance(lora, LoraOptions) and lora.modules_to_save is None:
        settings.fields["peft"] = dataclasses.replace(lora, modules_to_save=["embed_tokens", "lm_head"])


def _read_targets(given: str | list[str]) -> Any:
    """Return the target modules; `all` are the linear ones."""
    names = _split(given)
    return "all-linear" if names == ["all"] else names


def _split(given: str | list[str] | None) -> list[str] | None:
    """Return names in a comma list or a list."""
    if given is None:
        return None
    names = given if isinstance(given, list) else given.split(",")
    return [name.strip() for name in names if name.strip()]


def _miss_what_it_does(values: Values, settings: Settings) -> None:
    """Note what LLaMA-Factory does by itself."""
    stage = settings.stage or "sft"
    origin = Origin.FILE if values.has("stage") else Origin.DEFAULT
    if stage != "dpo":
        settings.silent.add("pref_loss")
    if stage in ("dpo", "kto") and settings.fields.get("dtype") == "float32":
        settings.miss(
            "reference", "half precision", LESS, "the reference is loaded in half precision: float32 is traced"
        )
    miss_stage(settings, "stage", stage, origin)
    if stage in ("dpo", "kto", "reward"):
        settings.fields["loss"] = "float32"


def _spell(change: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a change in fields of a LLaMA-Factory file."""
    spelt = spell_fields(change, _SPELLING, {"attention": {"flash_attention_2": "fa2", "eager": "disabled"}})
    if "gradient_checkpointing" in change:
        spelt["disable_gradient_checkpointing"] = not change["gradient_checkpointing"]
    if "quantization" in change:
        bits = {"nf4": 4, "fp4": 4, "int8": 8}.get(change["quantization"] or "")
        spelt["quantization_bit"] = bits
    if "peft" in change:
        lora = change["peft"]
        if isinstance(lora, LoraOptions):
            spelt |= {"finetuning_type": "lora", "lora_rank": lora.r}
            spelt["lora_target"] = "all" if lora.targets == "all-linear" else ",".join(lora.targets or ())
            # It refuses them beside LoRA (hparams/finetuning_args.py).
            spelt |= {name: False for name in ("use_galore", "use_apollo", "use_badam") if given.get(name)}
        elif lora is None:
            spelt["finetuning_type"] = "full"
    return spelt


_SPELLING = {
    "batch_size": "per_device_train_batch_size",
    "seq_len": "cutoff_len",
    "gradient_accumulation": "gradient_accumulation_steps",
    "optimizer": "optim",
    "attention": "flash_attn",
    "double_quant": "double_quantization",
    "alloc_conf": ALLOCATOR,
}
# Its own fields say how it checkpoints.
_REPLACED = (
    *("gradient_checkpointing", "gradient_checkpointing_kwargs", "use_cache", "use_liger_kernel"),
    "liger_kernel_config",
)

LLAMAFACTORY = Framework(
    name="LLaMA-Factory",
    package="llamafactory",
    newest="0.9.5",
    fields=(*_FIELDS, *(item for item in OF_TRAINING_ARGUMENTS if item.name not in _REPLACED)),
    others=_OTHERS | frozenset(_REPLACED),
    settle=_settle,
    spell=_spell,
)
