"""The memory-relevant fields of 56 files in the frameworks' own repositories, written as files again and read.

train_configs.json names the repository, path and commit of each, its fields as they stand there, for most of them
the request that they mean (`expected`), and what cannot be said (`not_modelled_today`). Of notebooks it has arguments
of calls, which are written as calls again.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from inspector.records.request import LoraOptions
from inspector.training_files.read import ReadFile, read_launch_file, read_training_file

__all__ = ["FOLDER", "LAUNCH", "RealFile", "load_files", "read_real_file", "to_peft"]

FOLDER = Path(__file__).parent
LAUNCH = ("accelerate", "deepspeed")
_CLASSES = {"sft": "SFT", "dpo": "DPO", "orpo": "ORPO", "grpo": "GRPO"}

RealFile = Mapping[str, Any]


@functools.cache
def load_files() -> tuple[RealFile, ...]:
    """Return what is known of each file."""
    content = json.loads((FOLDER / "train_configs.json").read_text(encoding="utf-8"))
    return tuple(content["configs"])


def read_real_file(known: RealFile, folder: Path) -> ReadFile:
    """Write the fields of a file in the form and under the name that it has, and read it."""
    path = folder / known["path"]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".ipynb":
        magics = {"cell_type": "code", "source": ["%%capture\n", "!pip install trl \\\n", "  peft\n"]}
        document = {"cells": [magics, {"cell_type": "code", "source": _write_calls(known)}]}
        path.write_text(json.dumps(document), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(known["fields"]), encoding="utf-8")
    else:
        path.write_text(yaml.safe_dump(known["fields"]), encoding="utf-8")
    if known["framework"] in LAUNCH:
        return read_launch_file(str(path))
    read = read_training_file(str(path))
    assert read is not None
    return read


def to_peft(adapter: Any) -> dict[str, Any] | None:
    """Return an adapter as the data has it."""
    if isinstance(adapter, LoraOptions):
        targets = list(adapter.targets) if isinstance(adapter.targets, tuple) else adapter.targets
        own = {"r": adapter.r, "lora_alpha": adapter.alpha, "lora_dropout": adapter.dropout}
        return {**own, "target_modules": targets}
    return None if adapter is None else dict(adapter)


def _write_calls(known: RealFile) -> str:
    """Return the calls of a notebook as code."""
    groups, trainer = known["fields"], _CLASSES[known["stage"]]
    args = f"args = {trainer}Config({_write_arguments(groups['args'])})"
    last = f"trainer = {trainer}Trainer(model=model, args=args, {_write_arguments(groups.get('trainer', {}))})"
    if known["framework"] == "unsloth":
        lines = [
            "from unsloth import FastLanguageModel",
            f"model, tokenizer = FastLanguageModel.from_pretrained({_write_arguments(groups['load'])})",
            f"model = FastLanguageModel.get_peft_model(model, {_write_arguments(groups['peft'])})",
        ]
    else:
        lines = [
            "import torch",
            "from trl import SFTConfig, SFTTrainer",
            f"quantization = BitsAndBytesConfig({_write_arguments(groups['quant'])})",
            f"model = AutoModelForCausalLM.from_pretrained('org/name', {_write_arguments(groups['load'])})",
            f"adapter = LoraConfig({_write_arguments(groups['peft'])})",
        ]
    return "\n".join([*lines, args, last])


def _write_arguments(arguments: Mapping[str, Any]) -> str:
    """Return keyword arguments as code; `<torch.float16>` is an expression."""
    return ", ".join(f"{name}={_write_value(value)}" for name, value in arguments.items())


def _write_value(value: Any) -> str:
    is_expression = isinstance(value, str) and value.startswith("<") and value.endswith(">")
    return value[1:-1] if is_expression else repr(value)
