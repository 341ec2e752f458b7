"""The models of tests/evidence/truth/stand_in/trainer.json: catalogue entries cut to a few layers, on meta."""

from __future__ import annotations

from typing import Any

import accelerate
import peft
import torch
import transformers
from torch import nn

from inspector.source import catalogue

__all__ = ["build"]


def build(row: dict[str, Any]) -> nn.Module:
    """Build the model of a row."""
    files = catalogue.load_model(row["model"])
    assert files is not None
    config = transformers.AutoConfig.for_model(**files.config)
    config.num_hidden_layers = row["layers"]
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: row["layers"]]
    with accelerate.init_empty_weights(include_buffers=True):
        model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, row["dtype"]))
        model.tie_weights()
        if row.get("lora"):
            adapter = peft.LoraConfig(task_type="CAUSAL_LM", **row["lora"])
            model = peft.get_peft_model(model, adapter, low_cpu_mem_usage=True)
    assert isinstance(model, nn.Module)
    return model
