"""Scripts and notebooks of Unsloth, by the arguments of their calls, as its release 2026.10.9 reads them.

Defaults: unsloth/models/{rl,loader,llama}.py, which write over TRL's. What is traced is a supervised step with these
arguments, with checkpoints in host memory as transformers keeps them. Unsloth's kernels and its chunked loss are not
modelled.
"""

from __future__ import annotations

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
from inspector.training_files.frameworks.shared import (
    DTYPES,
    OTHERS_OF_TRAINING_ARGUMENTS,
    read_others,
    settle_groups,
    settle_optimizer,
)
from inspector.training_files.frameworks.stages import miss_stage, settle_rows
from inspector.training_files.packing import assume_documents

__all__ = ["UNSLOTH"]

_SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Named as targets they train whole (unsloth/models/llama.py, get_peft_model).
_WHOLE = ("embed_tokens", "lm_head")
_FIELDS: tuple[Field, ...] = (
    reads("load.model_name", TEXT, "model"),
    reads("load.max_seq_length", COUNT, "seq_len", default=2048),
    reads("load.dtype", TEXT, "dtype", default="bfloat16"),
    reads("load.load_in_4bit", FLAG, "quantization", default=True),
    reads("load.load_in_8bit", FLAG, "quantization", default=False),
    reads("load.load_in_16bit", FLAG, "quantization"),
    reads("load.full_finetuning", FLAG, "peft", default=False),
    reads("load.attn_implementation", TEXT, "attention"),
    reads("load.use_gradient_checkpointing", ANY, "gradient_checkpointing"),
    reads("peft.r", COUNT, "peft.r", default=16),
    reads("peft.lora_alpha", NUMBER, "peft.alpha", default=16),
    reads("peft.lora_dropout", NUMBER, "peft.dropout", default=0),
    reads("peft.target_modules", NAMES, "peft.targets"),
    reads("peft.modules_to_save", NAMES, "peft.modules_to_save"),
    reads("peft.bias", TEXT, "peft.bias"),
    reads("peft.use_rslora", FLAG, "peft.rslora"),
    reads("peft.use_dora", FLAG, "peft.dora"),
    reads(
        "peft.use_gradient_checkpointing",
        ANY,
        "gradient_checkpointing",
        default="unsloth",
    ),
    reads("args.per_device_train_batch_size", COUNT, "batch_size", default=4),
    reads("args.gradient_accumulation_steps", COUNT, "gradient_accumulation", default=2),
    reads("args.optim", TEXT, "optimizer", default="adamw_8bit"),
    reads("args.max_grad_norm", NUMBER, "max_grad_norm", default=1.0),
    reads("args.max_length", COUNT, "seq_len"),
    reads("args.max_seq_length", COUNT, "seq_len"),
    reads("trainer.max_length", COUNT, "seq_len"),
    reads("trainer.max_seq_length", COUNT, "seq_len"),
    reads("args.bf16", FLAG, "mixed_precision", default=True),
    reads("args.fp16", FLAG, "mixed_precision"),
    misses("load.fast_inference", MORE, "vLLM's share of the card", kind=FLAG),
    misses("load.gpu_memory_utilization", MORE, "vLLM's share of the card"),
    misses("load.float8_kv_cache", LESS, "vLLM's cache in 8 bits", kind=FLAG),
    misses("load.load_in_fp8", LESS, "weights in 8 bits"),
    misses("load.unsloth_tiled_mlp", LESS, "the MLP runs in pieces of a sequence"),
    misses("load.offload_embedding", LESS, "the embedding is kept in host memory", kind=FLAG),
    misses("peft.finetune_vision_layers", UNKNOWN, "where the adapter is put", kind=FLAG),
    misses("peft.finetune_language_layers", UNKNOWN, "where the adapter is put", kind=FLAG, off=(True,)),
    misses("peft.finetune_attention_modules", UNKNOWN, "where the adapter is put", kind=FLAG, off=(True,)),
    misses("peft.finetune_mlp_modules", UNKNOWN, "where the adapter is put", kind=FLAG, off=(True,)),
    misses("peft.layers_to_transform", LESS, "some layers alone have an adapter"),
    misses("peft.loftq_config", UNKNOWN, "adapters that start otherwise"),
    misses("peft.init_lora_weights", UNKNOWN, "adapters that start otherwise", off=(True,)),
    misses("peft.qat_scheme", MORE, "weights are quantized on the way"),
    misses("peft.target_parameters", MORE, "experts' parameters have adapters, too"),
    reads("args.packing", FLAG, "packing"),
    reads("trainer.packing", FLAG, "packing"),
    reads("args.padding_free", FLAG, "packing"),
    misses("args.embedding_learning_rate", UNKNOWN, "parameters in more groups"),
    misses("args.use_vllm", MORE, "vLLM's share of the card", kind=FLAG),
    reads("args.num_generations", COUNT, "num_generations", effect=MORE, why="answers are generated in the step"),
    misses("args.max_prompt_length", UNKNOWN, "how a sequence is truncated"),
    misses("trainer.max_prompt_length", UNKNOWN, "how a sequence is truncated"),
    misses("args.max_completion_length", UNKNOWN, "how long an answer is"),
    misses("args.beta", MORE, "a reference pass beside the policy's", kind=NUMBER),
    misses("trainer.beta", MORE, "a reference pass beside the policy's", kind=NUMBER),
    reads("args.neftune_noise_alpha", NUMBER, "neftune"),
    misses("args.torch_compile", UNKNOWN, "other kernels, which keep other tensors"),
    misses("args.loss_type", UNKNOWN, "another loss"),
    reads("args.gradient_checkpointing", ANY, "gradient_checkpointing"),
)
_OF_THE_ADAPTER = {
    "r": "peft.r",
    "alpha": "peft.lora_alpha",
    "dropout": "peft.lora_dropout",
    "bias": "peft.bias",
    "rslora": "peft.use_rslora",
    "dora": "peft.use_dora",
}
_OTHERS = read_others("unsloth")
# The arguments of TRL's trainers are those of transformers and their own.
_OTHERS |= {f"args.{name}" for name in OTHERS_OF_TRAINING_ARGUMENTS | read_others("trl")}


def _settle(values: Values, settings: Settings) -> None:
    """Make the step that Unsloth's arguments say, in a trainer of TRL."""
    fields = settings.fields
    settings.stage = settings.stage or "sft"
    fields["dtype"] = values.choose("load.dtype", DTYPES)
    settle_optimizer(values, settings, "args.optim")
    fields["mixed_precision"] = "fp16" if values["args.fp16"] and not values.given.get("args.bf16") else "bf16"
    how = values["peft.use_gradient_checkpointing"]
    fields["gradient_checkpointing"] = how not in (False, None, "false")
    fields["use_reentrant"] = False
    for name in ("peft", "quantization", "double_quant", "attention"):
        fields.pop(name, None)
    is_full = bool(values["load.full_finetuning"])
    if not is_full:
        fields["peft"] = _read_adapter(values)
    if values["load.load_in_8bit"]:
        fields["quantization"] = "int8"
    elif values["load.load_in_4bit"] and not is_full and not values["load.load_in_16bit"]:
        fields |= {"quantization": "nf4", "double_quant": True}
    _settle_rows(values, settings)
    settle_groups(settings, "args.embedding_learning_rate")
    miss_stage(settings, "stage", settings.stage, Origin.FILE)
    settings.miss("kernels", "Unsloth", LESS, "its RoPE, norm, MLP and LoRA kernels keep less than autograd")
    settings.miss("loss", "Unsloth", LESS, "its loss makes logits in chunks: the stock loss is traced")
    if how == "unsloth":
        fields["offload"] = "checkpoints"
        settings.miss(
            "checkpoints", "unsloth", MORE, "the last block's input and two buffers of its size stay on the card"
        )


def _settle_rows(values: Values, settings: Settings) -> None:
    """Take the shorter of what the model is loaded for and what the trainer cuts rows to."""
    asked = [
        values[name]
        for name in ("args.max_length", "args.max_seq_length", "trainer.max_length", "trainer.max_seq_length")
        if values.has(name)
    ]
    lengths = [values["load.max_seq_length"], *asked]
    prompt, answer = values["args.max_prompt_length"], values["args.max_completion_length"]
    if settings.stage == "grpo" and isinstance(prompt, int) and isinstance(answer, int):
        lengths.append(prompt + answer)
    settings.fields["seq_len"] = min(lengths)
    settings.fields.pop("packing", None)
    if values["args.packing"] or values["trainer.packing"]:
        assume_documents(settings, min(lengths))
    elif values["args.padding_free"]:
        settings.fields |= {"packing": 1, "padding": False}
    if settings.stage == "grpo":
        _settle_groups(values, settings, prompt)
    settings.silent |= {"args.max_prompt_length", "args.max_completion_length", "trainer.max_prompt_length"}
    if settings.stage != "grpo":
        settings.silent |= {"args.beta", "trainer.beta"}


def _settle_groups(values: Values, settings: Settings, prompt: Any) -> None:
    """Take the rows of GRPO: Unsloth raises a batch that is no whole group of answers to that size (models/rl.py)."""
    generations, fields = values["args.num_generations"], settings.fields
    if isinstance(generations, int) and not isinstance(generations, bool) and fields["batch_size"] % generations:
        fields["batch_size"] = generations
    settle_rows(settings, prompt, generations)


def _read_adapter(values: Values) -> LoraOptions:
    """Return the adapter; embeddings and head among its targets train whole."""
    given = {setting: values[name] for setting, name in _OF_THE_ADAPTER.items() if values[name] is not None}
    targets = values["peft.target_modules"]
    by_part = any(values.has(f"peft.finetune_{part}") for part in ("vision_layers", "language_layers", "mlp_modules"))
    if targets is None:
        targets = "all-linear" if by_part else list(_SEVEN)
    saved = values["peft.modules_to_save"]
    saved = [saved] if isinstance(saved, str) else list(saved or ())
    if isinstance(targets, list):
        saved += [name for name in targets if name in _WHOLE and name not in saved]
        targets = [name for name in targets if name not in _WHOLE]
    return LoraOptions(**given, targets=targets, modules_to_save=saved or None)


def _spell(change: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a change in the arguments of the calls."""
    spelt = {_SPELLING[name]: value for name, value in change.items() if name in _SPELLING and value is not None}
    if "quantization" in change:
        spelt["load.load_in_4bit"] = change["quantization"] in ("nf4", "fp4")
    if "gradient_checkpointing" in change and not change["gradient_checkpointing"]:
        spelt["peft.use_gradient_checkpointing"] = False
    if isinstance(change.get("peft"), LoraOptions):
        spelt |= {"load.full_finetuning": False, "peft.r": change["peft"].r}
    return spelt


_SPELLING = {
    "batch_size": "args.per_device_train_batch_size",
    "seq_len": "load.max_seq_length",
    "gradient_accumulation": "args.gradient_accumulation_steps",
    "optimizer": "args.optim",
    "gradient_checkpointing": "peft.use_gradient_checkpointing",
    "attention": "load.attn_implementation",
    "alloc_conf": "PYTORCH_CUDA_ALLOC_CONF",
}

UNSLOTH = Framework(
    name="Unsloth",
    package="unsloth",
    newest="2026.10.9",
    fields=_FIELDS,
    others=_OTHERS,
    settle=_settle,
    spell=_spell,
)
