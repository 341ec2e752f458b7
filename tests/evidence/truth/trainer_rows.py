"""The models and recipes of tests/evidence/truth/stand_in/trainer.json, trl.json and trl-chunked.json.

Models are catalogue entries cut to a few layers, on meta.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import accelerate
import peft
import torch
import transformers
from torch import nn

from inspector.hardware.platform import Platform
from inspector.memory.timeline import fold
from inspector.records.recipe import Recipe
from inspector.source import catalogue
from tests.evidence.truth.matrix import OF_EVERY_ROW
from tests.workloads.tracing import trace

__all__ = ["KNOWN", "RECORDS", "build", "compare", "find_task", "make_recipe", "name_row"]

_FOLDER = Path(__file__).parent / "stand_in"
RECORDS: tuple[Mapping[str, Any], ...] = tuple(
    json.loads((_FOLDER / name).read_text(encoding="utf-8"))
    for name in ("trainer.json", "trl.json", "trl-chunked.json")
)
# (row, figure) -> predicted minus measured in bytes, and why.
KNOWN: Mapping[tuple[str, str], tuple[int, str]] = {
    ("sft-activations-on-the-host", "peak_reserved_bytes"): (
        -62_914_560,
        "the stream that copies activations back keeps its cached blocks to itself; the trace has one stream",
    ),
    ("grpo-reference", "peak_reserved_bytes"): (
        -2_097_152,
        "of the tokens that are generated the last alone is traced: what is reserved for those before is not",
    ),
}


def name_row(row: Mapping[str, Any]) -> str:
    """Return the name of a row; those of `transformers.Trainer` are named by what is special in their recipe."""
    if "row" in row:
        return str(row["row"])
    options = {key: value for key, value in row["recipe"].items() if key not in ("seq_len", "padding")}
    model = row["model"].partition("/")[2]
    return " ".join(["trainer", model, "lora" if "lora" in row else "full", *map(str, options.values())])


def compare(row: dict[str, Any], record: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return each figure of a row as predicted and as measured."""
    predicted = _predict(row, record)
    return {key: (predicted[key], measured) for key, measured in row["measured"].items()}


def build(row: dict[str, Any]) -> nn.Module:
    """Build the model of a row."""
    files = catalogue.load_model(row["model"])
    assert files is not None
    config = transformers.AutoConfig.for_model(**files.config)
    config.num_hidden_layers = row["layers"]
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: row["layers"]]
    with accelerate.init_empty_weights(include_buffers=True):
        head: Any = transformers.AutoModelForCausalLM
        if row["recipe"].get("stage") == "reward":
            config.num_labels, config.pad_token_id = 1, 0
            head = transformers.AutoModelForSequenceClassification
        model: Any = head.from_config(config, dtype=getattr(torch, row["dtype"]))
        model.tie_weights()
        if row.get("lora"):
            adapter = peft.LoraConfig(task_type=find_task(row), **row["lora"])
            model = peft.get_peft_model(model, adapter, low_cpu_mem_usage=True)
    assert isinstance(model, nn.Module)
    return model


def find_task(row: dict[str, Any]) -> str:
    """Return what PEFT calls the task of a row."""
    return "SEQ_CLS" if row["recipe"].get("stage") == "reward" else "CAUSAL_LM"


def make_recipe(row: dict[str, Any]) -> Recipe:
    """Return how the step of a row runs."""
    return Recipe(**{**OF_EVERY_ROW, **row["recipe"]})


def _predict(row: dict[str, Any], record: Mapping[str, Any]) -> dict[str, int]:
    """Return what the second update of a row takes on the platform of its record."""
    from tests.evidence.truth import rank_rows  # which builds its models by this module

    major, minor = record["torch"].split(".")[:2]
    platform = Platform(
        compute_capability=tuple(record["compute_capability"]),
        multiprocessors=record["multiprocessors"],
        threads_per_multiprocessor=record["threads_per_multiprocessor"],
        torch_version=(int(major), int(minor)),
    )
    # TRL attaches an adapter to a model that is on the card.
    on_card = "trl" in record and bool(row.get("lora"))
    model = rank_rows.build_rank(row) if "quantization" in row else build(row)
    timeline = fold(trace(model, make_recipe(row), platform, attaches_on_card=on_card))
    second = [phase for phase in timeline.phases if phase.step == 2]
    return {
        "peak_allocated_bytes": max(phase.peak_allocated_bytes for phase in second),
        "peak_reserved_bytes": max(phase.peak_reserved_bytes for phase in second),
        "end_of_step_allocated_bytes": timeline.step_end_allocated_bytes[2],
    }
