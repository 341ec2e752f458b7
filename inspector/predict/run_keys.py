"""What runs, traces and models of one inspection are equal by, so that each is predicted, traced and built once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.steps.stages import Stage
from inspector.resolve import ResolvedRun

__all__ = [
    "Key",
    "freeze",
    "make_key_of_updates",
    "make_key_without_optimizer",
    "make_key_without_size",
    "make_model_key",
    "make_run_key",
    "make_skeleton_key",
    "make_trace_key",
]

Key = tuple[Any, ...]
# What of a request decides which model is built.
_OF_THE_MODEL = (
    *("dtype", "model_class", "quantization", "double_quant", "quant_storage"),
    *("peft", "autocast_adapter_dtype", "adapter_dtype", "preparation"),
)
_PLAIN_TYPES = frozenset((bool, int, float, str))
_OF_THE_RECIPE = tuple(field.name for field in dataclasses.fields(Recipe))


def make_run_key(run: ResolvedRun) -> Key:
    """Return what two runs of one inspection are equal by."""
    return make_trace_key(run), freeze(run.allocator), freeze(run.gpu), run.margin_bytes


def make_trace_key(run: ResolvedRun, **changes: Any) -> Key:
    """Return what two traces are equal by; `changes` are fields of the recipe that are to count as equal."""
    recipe, changes = run.recipe, {"alloc_conf": None, **changes}
    fields = tuple(freeze(changes[name] if name in changes else getattr(recipe, name)) for name in _OF_THE_RECIPE)
    ranks = freeze(run.launch), run.rank, run.request.extrapolate, run.scan_passes
    return run.workload.name, fields, freeze(run.platform), make_model_key(run.request), ranks


def make_key_without_size(run: ResolvedRun) -> Key:
    """Return what traces are equal by that differ in batch size and sequence length alone."""
    return make_trace_key(run, batch_size=1, seq_len=None)


def make_key_of_updates(run: ResolvedRun) -> Key:
    """Return what traces are equal by whose passes alone may differ: no optimizer sees sizes or activations."""
    passes = ("seq_len", "attention", "gradient_checkpointing", "use_reentrant")
    return make_trace_key(run, batch_size=1, **dict.fromkeys(passes))


def make_key_without_optimizer(run: ResolvedRun) -> Key:
    """Return what traces are equal by that differ in the optimizer alone."""
    return make_trace_key(run, optimizer=Recipe().optimizer, optim_args=None)


def make_model_key(request: Request) -> Key:
    """Return what two models of one inspection are equal by."""
    return (*(freeze(getattr(request, name)) for name in _OF_THE_MODEL), *_list_changes(request.recipe))


def make_skeleton_key(request: Request) -> Key:
    """Return what two models are equal by before an adapter is put on them or their weights are quantized."""
    return request.dtype, request.model_class, request.peft is None, *_list_changes(request.recipe)


def _list_changes(recipe: Recipe) -> Iterator[Any]:
    """Yield what a recipe changes of a model."""
    changes = recipe.train_only, recipe.add_tokens, recipe.labels, recipe.frames, recipe.stage is Stage.REWARD
    yield from map(freeze, changes)


def freeze(value: Any) -> Any:
    """Return a value that is hashable and equal where the given one is: of records, PEFT's configurations, mappings."""
    if value is None or type(value) in _PLAIN_TYPES:
        return type(value), value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(
            (field.name, freeze(getattr(value, field.name))) for field in dataclasses.fields(value)
        )
    if isinstance(value, Mapping):
        return "mapping", frozenset((key, freeze(item)) for key, item in value.items())
    if isinstance(value, AbstractSet):
        return "set", frozenset(map(freeze, value))
    if isinstance(value, (list, tuple)):
        return "sequence", tuple(map(freeze, value))
    return type(value), value
