"""What is predicted for a measured row: the trace of the step that its harness ran, on the platform of the record.

`inspect measure` runs the very step that is traced, predicted by the one door that the command has. fitcheck-llm's loop
is a workload (`fitcheck`); that of PEFT's method comparison empties the allocator's cache between steps, which no
workload does, and stands here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers.integrations import sdpa_attention

from inspector.memory.timeline import Timeline, fold
from inspector.model.build import BuiltModel, build_whole
from inspector.predict.predictor import Prediction, Predictor
from inspector.records.tape import Category, Event, Phase, WorkloadInfo
from inspector.resolve import ResolvedRun, resolve_run
from inspector.runtime.process import reserve_process
from inspector.trace.rules.cuda import apply_cuda_rules
from inspector.trace.tracer import Tracer
from inspector.workloads.loading import list_in_load_order
from inspector.workloads.registry import TRAINING, load_workload
from inspector.workloads.run import build_categories
from tests.evidence.truth.fitcheck import FITCHECK
from tests.evidence.truth.records import Measured, load

__all__ = ["predict_row", "predict_timeline", "predicted"]


@functools.cache
def predicted(name: str, group: str) -> Timeline:
    """Return the timeline that is predicted for a row."""
    return predict_timeline(next(row for row in load() if (row.name, row.group) == (name, group)))


def predict_timeline(row: Measured) -> Timeline:
    """Return the timeline that is predicted for a row, which need not be one of the records."""
    # As the pipeline traces: a collection in the middle of a step would end what only a cycle keeps alive.
    with reserve_process():
        gc.collect()
        if row.harness == "peft method_comparison":
            run = _resolve(row, TRAINING)
            return fold(_method_comparison(row), run.allocator, descending_addresses=run.platform.takes_newest_segment)
        return predict_row(row).fold()


def predict_row(row: Measured) -> Prediction:
    """Return the prediction of a row that the ordinary door has a workload for."""
    if row.harness == "fitcheck-llm":
        with _keys_repeated():
            return Predictor(row.files).predict(_resolve(row, FITCHECK))
    return Predictor(row.files).predict(_resolve(row, row.workload))


def _resolve(row: Measured, workload: WorkloadInfo) -> ResolvedRun:
    """Return the run of a row: on the torch and the GPU of its record, under default settings of the allocator."""
    major, minor = row.torch_version
    rank, cards = row.place or (0, 1)
    run = resolve_run(dataclasses.replace(row.request, torch=f"{major}.{minor}"), None, {}, cards)
    run = dataclasses.replace(run, rank=rank, is_rank=row.place is not None)
    return dataclasses.replace(run, workload=workload, platform=row.platform, files=row.files)


def _method_comparison(row: Measured) -> list[Event]:
    """Trace two steps of the longest batch of PEFT's method comparison, the cache emptied between them.

    Each step begins with zero_grad; its outputs and gradients live until the next one has made its own.
    """
    built = build_whole(row.request, row.files)
    model: Any = built.model
    tracer, ids = _loaded(row, built)
    padded = torch.ones(ids.shape, dtype=torch.int64)
    padded[-1, -1] = 0
    optimizer = torch.optim.AdamW(_trained(model), foreach=True)
    with apply_cuda_rules(row.platform, row.recipe.sdpa_backend), tracer:
        outputs = None  # lives on while the next forward pass runs
        for step in (1, 2):
            if step == 2:
                tracer.empty_cache()
            batch = {name: torch.empty_like(ids) for name in ("input_ids", "attention_mask", "labels")}
            tracer.shadows.set(batch["attention_mask"], padded)
            tracer.hold(batch.values(), Category.INPUTS)
            tracer.enter(Phase.FORWARD, step)
            optimizer.zero_grad()
            outputs = model(**batch)
            tracer.enter(Phase.BACKWARD, step)
            outputs.loss.backward()
            tracer.enter(Phase.OPTIMIZER, step)
            torch.nn.utils.clip_grad_norm_(_trained(model), 1.0)
            optimizer.step()
        tape = tracer.tape()
    assert outputs is not None
    return tape


def _loaded(row: Measured, built: BuiltModel) -> tuple[Tracer, Tensor]:
    """Return a tracer that holds the model of a row, prepared, and the ids of its batch."""
    workload = load_workload(TRAINING)
    workload.prepare(built.model, row.recipe)
    tracer = Tracer(row.platform, None, build_categories(workload, built.model))
    for _, tensor, category in list_in_load_order(built):
        tracer.hold([tensor], category)
    ids = torch.zeros(row.recipe.batch_size, row.recipe.seq_len or 0, dtype=torch.int64, device=torch.device("meta"))
    return tracer, ids


def _trained(model: Any) -> list[torch.nn.Parameter]:
    """Return the parameters that train."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@contextlib.contextmanager
def _keys_repeated() -> Iterator[None]:
    """Let transformers repeat keys and values for grouped queries, as that harness had it."""
    before = sdpa_attention.use_gqa_in_sdpa
    sdpa_attention.use_gqa_in_sdpa = lambda *_: False
    try:
        yield
    finally:
        sdpa_attention.use_gqa_in_sdpa = before
