"""torchtune's YAML: what can be said of it. Its models are its own, so that nothing of a step can be traced.

Names are those of torchtune 0.6.1, the last release (recipes/configs, models/*/_model_builders.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from inspector.errors import one_line, quoted
from inspector.source import catalogue
from inspector.source.recognize.nearest import list_near_ids

__all__ = ["explain_torchtune"]

_OPTIMIZERS = {
    "AdamW": "adamw_torch",
    "PagedAdamW": "paged_adamw_32bit",
    "PagedAdamW8bit": "paged_adamw_8bit",
    "AdamW8bit": "adamw_8bit",
    "SGD": "sgd",
}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# Projections of attention by torchtune's names, where transformers' differ.
_PROJECTIONS = {"output_proj": "o_proj"}
_OF_THE_MLP = ("gate_proj", "up_proj", "down_proj")
_PREFIXES = ("lora_", "qlora_", "dora_", "qdora_")


def explain_torchtune(document: Mapping[str, Any], path: str) -> str:
    """Return why such a file cannot be inspected, and the command that means nearly the same."""
    model = document.get("model")
    model = model if isinstance(model, dict) else {}
    component = str(model.get("_component_", ""))
    command = " ".join(("inspect", _find_model(component), *_list_options(document, model, component)))
    return (
        f"{quoted(path, 100)} is torchtune's, whose models are its own ({one_line(component, 80)}) and whose "
        f"development ended in 2025; use transformers' model of it, the nearest: {command}."
    )


def _find_model(component: str) -> str:
    """Return the model of the bundled catalogue that a builder is nearest to, MODEL where none is."""
    name = component.rpartition(".")[2]
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    words = name.split("_")
    family = ".".join(words[:2]) if len(words) > 2 and words[1].isdigit() else words[0]  # llama3_1_8b, qwen2_5_7b_base
    rest = words[2:] if len(words) > 2 and words[1].isdigit() else words[1:]
    size = next((word for word in rest if word.endswith("b") and word[:1].isdigit()), "")
    spelt = family.replace("llama3", "llama-3").replace("llama2", "llama-2")
    return next(iter(list_near_ids(f"{spelt}-{size}", catalogue.list_ids())), "MODEL") if size else "MODEL"


def _list_options(document: Mapping[str, Any], model: Mapping[str, Any], component: str) -> Iterator[str]:
    """Yield the options that the fields of a file mean."""
    yield from _list_options_of_adapter(model, component)
    for name, option in (("batch_size", "--batch-size"), ("gradient_accumulation_steps", "--gradient-accumulation")):
        if type(document.get(name)) is int:
            yield f"{option} {document[name]}"
    tokenizer = document.get("tokenizer")
    length = tokenizer.get("max_seq_len") if isinstance(tokenizer, dict) else None
    if type(length) is int:
        yield f"--seq-len {length}"
    if str(document.get("dtype")) in _DTYPES:
        yield f"--dtype {_DTYPES[str(document['dtype'])]}"
    if document.get("enable_activation_checkpointing") is True:
        yield "--gradient-checkpointing"
    if document.get("enable_activation_offloading") is True:
        yield "--offload checkpoints"
    optimizer = document.get("optimizer")
    if isinstance(optimizer, dict):
        name = str(optimizer.get("_component_", "")).rpartition(".")[2]
        known = "adamw_torch_fused" if name == "AdamW" and optimizer.get("fused") is True else _OPTIMIZERS.get(name)
        if known:
            yield f"--optimizer {known}"


def _list_options_of_adapter(model: Mapping[str, Any], component: str) -> Iterator[str]:
    """Yield the options of a model with LoRA."""
    rank, alpha = model.get("lora_rank"), model.get("lora_alpha")
    if type(rank) is not int:
        return
    builder = component.rpartition(".")[2]
    parts = [f"r={rank}", *([f"alpha={alpha}"] if type(alpha) is int else [])]
    parts += ["dora"] if model.get("use_dora") is True or builder.startswith(("dora_", "qdora_")) else []
    yield f"--lora {','.join(parts)}"
    modules = model.get("lora_attn_modules")
    named = [_PROJECTIONS.get(name, name) for name in modules if isinstance(name, str)] if type(modules) is list else []
    named += _OF_THE_MLP if model.get("apply_lora_to_mlp") is True else ()
    named += ["lm_head"] if model.get("apply_lora_to_output") is True else []
    yield f"--targets {one_line(','.join(named), 200) if named else 'all-linear'}"
    if model.get("quantize_base") is True or builder.startswith(("qlora_", "qdora_")):
        yield "--quantization nf4 --double-quant"
