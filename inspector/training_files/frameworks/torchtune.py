"""torchtune's YAML: what can be said of it. Its models are its own, so that nothing of a step can be traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inspector.errors import one_line, quoted

__all__ = ["explain_torchtune"]

_OPTIMIZERS = {"AdamW": "adamw_torch", "PagedAdamW8bit": "paged_adamw_8bit", "AdamW8bit": "adamw_8bit", "SGD": "sgd"}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def explain_torchtune(document: Mapping[str, Any], path: str) -> str:
    """Return why such a file cannot be inspected, and the options that mean nearly the same."""
    model, optimizer = (document.get(name) for name in ("model", "optimizer"))
    component = str(model.get("_component_", "")) if isinstance(model, dict) else ""
    options = []
    rank = model.get("lora_rank") if isinstance(model, dict) else None
    if isinstance(rank, int):
        options.append(f"--lora r={rank} --targets all-linear")
    for name, option in (("batch_size", "--batch-size"), ("gradient_accumulation_steps", "--gradient-accumulation")):
        if isinstance(document.get(name), int):
            options.append(f"{option} {document[name]}")
    dtype = _DTYPES.get(str(document.get("dtype")))
    options += [f"--dtype {dtype}"] if dtype else []
    options += ["--gradient-checkpointing"] if document.get("enable_activation_checkpointing") is True else []
    if isinstance(optimizer, dict):
        name = str(optimizer.get("_component_", "")).rpartition(".")[2]
        known = "adamw_torch_fused" if name == "AdamW" and optimizer.get("fused") is True else _OPTIMIZERS.get(name)
        options += [f"--optimizer {known}"] if known else []
    return (
        f"{quoted(path, 100)} is torchtune's, whose models are its own ({one_line(component, 80)}) and whose "
        f"development ended in 2025; nearest is transformers' model of it: give inspect MODEL {' '.join(options)}."
    )
