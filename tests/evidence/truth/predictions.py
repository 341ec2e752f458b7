"""What is predicted for a measured row: the trace of the step that its harness ran, on the platform of the record.

`inspect measure` runs the very step that is traced. Other harnesses have loops of their own, which stand here.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers.integrations import sdpa_attention

from inspector.measure.measuring import folded
from inspector.memory.timeline import Timeline
from inspector.model.build import count_model
from inspector.records.tape import Category, Event, Phase
from inspector.trace.rules.cuda import cuda_rules
from inspector.trace.tracer import Tracer
from inspector.workloads.checks import allocator_settings
from inspector.workloads.training.loops import plain_steps
from inspector.workloads.training.quantized_load import is_quantized, load_quantized, quantized_rules
from inspector.workloads.training.trace_ import base_model, load_order, prepare, resolved, trace_training
from tests.evidence.truth.records import Measured, load

__all__ = ["predict_timeline", "predicted"]


@functools.cache
def predicted(name: str, group: str) -> Timeline:
    """Return the timeline that is predicted for a row."""
    return predict_timeline(next(row for row in load() if (row.name, row.group) == (name, group)))


def predict_timeline(row: Measured) -> Timeline:
    """Return the timeline that is predicted for a row, which need not be one of the records."""
    # As the pipeline traces: a collection in the middle of a step would end what only a cycle keeps alive.
    gc.collect()
    gc.disable()
    try:
        tape = _HARNESSES[row.harness](row)
    finally:
        gc.enable()
    settings, _ = allocator_settings(row.recipe, {})
    return folded(tape, settings, row.platform, descending=row.descends)


def _inspect_measure(row: Measured) -> list[Event]:
    """Trace the step of `inspect measure`."""
    model = count_model(row.request, row.files).trainable
    return trace_training(model, resolved(model, row.recipe), row.platform)


def _fitcheck(row: Measured) -> list[Event]:
    """Trace the step of fitcheck-llm: no mask, the embedding's output requires gradients, labels are the ids."""
    with _keys_repeated():
        model = count_model(row.request, row.files).trainable
        base_model(model).enable_input_require_grads()
        rules = quantized_rules(row.platform) if is_quantized(model) else contextlib.nullcontext()
        with rules:
            tracer, ids = _loaded(row, model)
            optimizer = torch.optim.AdamW(_trained(model), foreach=True)
            with cuda_rules(row.platform, row.recipe.sdpa_backend), tracer:
                tracer.hold([ids], Category.INPUTS)
                plain_steps(model, {"input_ids": ids, "labels": ids}, optimizer, tracer.enter, steps=2)
                return tracer.tape()


def _method_comparison(row: Measured) -> list[Event]:
    """Trace two steps of the longest batch of PEFT's method comparison, the cache emptied between them.

    Each step begins with zero_grad; its outputs and gradients live until the next one has made its own.
    """
    model = count_model(row.request, row.files).trainable
    tracer, ids = _loaded(row, model)
    padded = torch.ones(ids.shape, dtype=torch.int64)
    padded[-1, -1] = 0
    optimizer = torch.optim.AdamW(_trained(model), foreach=True)
    with cuda_rules(row.platform, row.recipe.sdpa_backend), tracer:
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


_HARNESSES: dict[str, Callable[[Measured], list[Event]]] = {
    "inspect measure": _inspect_measure,
    "fitcheck-llm": _fitcheck,
    "peft method_comparison": _method_comparison,
}


def _loaded(row: Measured, model: Any) -> tuple[Tracer, Tensor]:
    """Return a tracer that holds the model of a row, prepared, and the ids of its batch."""
    prepare(model, row.recipe)
    tracer = Tracer(row.platform)
    tracer.watch(model, base_model(model).get_output_embeddings())
    if is_quantized(model):
        load_quantized(tracer, model, lambda name: "default" in name.split("."), lambda _name: "")
    else:
        for _, tensor, category in load_order(model):
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
