"""PEFT on small real weights: what it trains and saves, to hold what is counted on meta against."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType

import inspector

__all__ = ["Outcome", "attach_for_real", "inspect_adapter", "tiny_llama", "write_folder"]

# 188,992 parameters: tables 2 * 320 * 64, 4 layers of attention 12,288 + MLP 24,576 + norms 128, and a norm of 64.
TINY_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What PEFT did: how many parameters train, and the size of adapter_model.safetensors."""

    trained: int
    file_bytes: int | None = None


def tiny_llama(**changes: Any) -> transformers.LlamaConfig:
    """Return the configuration of a Llama of four layers."""
    fields = {name: value for name, value in {**TINY_LLAMA, **changes}.items() if name != "model_type"}
    return transformers.LlamaConfig(**fields)


def write_folder(path: Path, **files: Any) -> str:
    """Write objects as JSON files into a directory, by the stems of their names, and return its path."""
    path.mkdir(parents=True, exist_ok=True)
    for stem, content in files.items():
        (path / f"{stem}.json").write_text(json.dumps(content))
    return str(path)


def inspect_adapter(model: Any, fields: dict[str, Any]) -> tuple[Outcome, dict[str, list[str]]]:
    """Return what the inspector says of an adapter: its figures, and the messages of its warnings by code."""
    report = inspector.inspect(model, peft=fields, count_only=True)
    assert report.adapter is not None
    said: dict[str, list[str]] = {}
    for notice in report.warnings:
        said.setdefault(notice.code, []).append(notice.message)
    return Outcome(trained=report.parameters.trainable, file_bytes=report.adapter.file_bytes), said


def attach_for_real(config: transformers.PretrainedConfig, fields: dict[str, Any], folder: Path) -> Outcome:
    """Put an adapter on random weights with PEFT itself, and save it into `folder`; raises what PEFT raises."""
    name = (config.architectures or [""])[0]
    fields = {"task_type": "CAUSAL_LM" if name.endswith("ForCausalLM") else None, **fields}
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(fields.pop("peft_type"))]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = getattr(transformers, name)._from_config(config, dtype=config.dtype or torch.float32)
        model = peft.get_peft_model(base, kind(**fields))
        model.save_pretrained(str(folder))
    size = (folder / "adapter_model.safetensors").stat().st_size
    return Outcome(trained=model.get_nb_trainable_parameters()[0], file_bytes=size)
