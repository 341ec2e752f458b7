"""The workloads by name: the one place to add one. No torch is loaded before a workload runs."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from inspector.errors import UsageError, quoted
from inspector.records.recipe import Recipe
from inspector.records.tape import Category, Phase, WorkloadInfo

if TYPE_CHECKING:
    from inspector.workloads.base import Workload

__all__ = ["FORWARD", "GENERATE", "TRAINING", "WORKLOADS", "find_workload", "load_workload"]

# The fields of a Recipe that generation alone reads.
_OF_GENERATION = frozenset(("new_tokens", "cache", "prefill_chunk_size", "generation", "adapter"))

TRAINING = WorkloadInfo(
    name="training",
    title="One training step",
    label="training step",
    summary="a training step: forward, backward and update",
    module="inspector.workloads.training",
    recipe_fields=frozenset(field.name for field in dataclasses.fields(Recipe)) - _OF_GENERATION,
    phases={
        Phase.LOAD: "loading",
        Phase.GENERATE: "generation",
        Phase.FORWARD: "forward pass",
        Phase.REFERENCE: "reference pass",
        Phase.BACKWARD: "backward pass",
        Phase.OPTIMIZER: "optimizer",
    },
    note="Loading, and the phases of the second step: the first one has no optimizer state yet.",
    kept={
        Phase.GENERATE: Category.INPUTS,
        Phase.FORWARD: Category.ACTIVATIONS,
        Phase.OPTIMIZER: Category.OPTIMIZER,
    },
    sized_until=Phase.OPTIMIZER,
    trains=True,
)

FORWARD = WorkloadInfo(
    name="forward",
    title="One forward pass",
    label="forward pass",
    summary="a forward pass without gradients: scoring, embedding",
    module="inspector.workloads.forward",
    recipe_fields=frozenset(
        (
            *("batch_size", "seq_len", "mixed_precision", "padding", "attention_mask", "attention", "sdpa_backend"),
            *(
                "use_cache",
                "add_tokens",
                "alloc_conf",
                "images",
                "image_size",
                "audio_seconds",
                "frames",
                "labels",
                "videos",
                "kernels",
            ),
        )
    ),
    phases={Phase.LOAD: "loading", Phase.FORWARD: "forward pass"},
    note="Loading, and the second pass: the outputs of the first one live until it has made its own.",
    kept={Phase.FORWARD: Category.LOGITS_AND_LOSS},
)

GENERATE = WorkloadInfo(
    name="generate",
    key="generation",
    title="One generation",
    label="generation",
    summary="generation of text: a prompt, then token by token",
    module="inspector.workloads.generate",
    recipe_fields=_OF_GENERATION
    | frozenset(("prompt_len", "batch_size", "mixed_precision", "padding", "attention", "sdpa_backend", "alloc_conf")),
    phases={Phase.LOAD: "loading", Phase.PREFILL: "prefill", Phase.DECODE: "decode"},
    note="Loading, the prompt, and the step of the last token, after which the cache is given back.",
    kept={},
    generates=True,
)

WORKLOADS: Mapping[str, WorkloadInfo] = {workload.name: workload for workload in (TRAINING, FORWARD, GENERATE)}


def find_workload(name: str) -> WorkloadInfo:
    """Return what is known of a workload; raise UsageError where there is none of that name."""
    if name not in WORKLOADS:
        raise UsageError(f"workload {quoted(name)} is not known: use one of {', '.join(WORKLOADS)}.")
    return WORKLOADS[name]


def load_workload(info: WorkloadInfo) -> Workload:
    """Return the code of a workload."""
    workload: Workload = importlib.import_module(info.module).WORKLOAD
    return workload
