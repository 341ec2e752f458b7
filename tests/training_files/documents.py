"""Small training files, one a framework, that name a model of the bundled catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from inspector.training_files.read import ReadFile, read_training_file

__all__ = ["AXOLOTL", "LLAMAFACTORY", "MODEL", "TRL", "read", "write"]

MODEL = "Qwen/Qwen2.5-0.5B"
AXOLOTL = {"base_model": MODEL, "micro_batch_size": 2, "sequence_len": 128, "adapter": "lora", "lora_r": 8}
AXOLOTL |= {"lora_target_linear": True, "lora_mlp_kernel": False}
LLAMAFACTORY = {"model_name_or_path": MODEL, "stage": "sft", "finetuning_type": "lora", "cutoff_len": 64}
TRL = {"model_name_or_path": MODEL, "per_device_train_batch_size": 2, "max_length": 64}


def write(folder: Path, content: dict[str, Any] | str, name: str = "train.yaml") -> str:
    """Write a training file and return its path."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return str(path)


def read(
    folder: Path, content: dict[str, Any] | str, name: str = "train.yaml", framework: str | None = None
) -> ReadFile:
    """Write a training file and return what is read of it."""
    found = read_training_file(write(folder, content, name), framework=framework)
    assert found is not None
    return found
