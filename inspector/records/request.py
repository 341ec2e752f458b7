"""What the user asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inspector.records.recipe import Recipe

__all__ = [
    "LoraOptions",
    "Request",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraOptions:
    """The LoRA adapter of `--lora`, `--targets` and `--modules-to-save`; None leaves PEFT's own default."""

    r: int | None = None
    alpha: int | None = None
    dropout: float | None = None
    bias: str | None = None
    dora: bool = False
    rslora: bool = False
    targets: str | Sequence[str] | None = None
    modules_to_save: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One inspection. `model` is what the user named, or a live object of the Python API.

    `workload` is what runs (a name of `workloads.registry`), `recipe` how. `torch` is the release of the machine that
    will run it, None the installed one. `peft` is one of: None (full fine-tuning), LoraOptions, a mapping of PEFT
    config fields with `peft_type`, or a live `peft.PeftConfig`. `quantization` is none, nf4, fp4 or int8, None what the
    checkpoint declares, and `double_quant` packs the scales of 4-bit weights too. `autocast_adapter_dtype` is that of
    PEFT's `get_peft_model`: whether an adapter in half precision becomes float32. `gpus` are names as people write
    them, `gpu_memory` sizes with a unit; the first of them decides for which GPU the step is traced. `fit` is the
    quantity to turn up until that GPU is full, `advice` whether to look for what makes the step fit a named GPU or,
    where it fits, for what could be turned up.
    """

    model: Any
    revision: str | None = None
    dtype: str = "auto"
    model_class: str | None = None
    trust_remote_code: bool = False
    offline: bool = False
    quantization: str | None = None
    double_quant: bool | None = None
    peft: Any = None
    autocast_adapter_dtype: bool = True
    workload: str = "training"
    recipe: Recipe = field(default_factory=Recipe)
    torch: str | None = None
    gpus: Sequence[str] = ()
    gpu_memory: Sequence[str] = ()
    fit: str | None = None
    advice: bool = True
    count_only: bool = False
    depth: int = 3
