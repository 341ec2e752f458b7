"""`inspect plan`: recipes to train one model on one card, each traced, with its largest batch size and sequence length.

A method is full fine-tuning, an adapter, or an adapter on packed weights. Each has a ladder of recipes: the optimizers
and switches that people turn to when memory is short, in the order of the harm that they do. A model that can have all
of them has 24. The files are read once, and candidates that are much alike are traced in a process of their own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch

from inspector.dtypes import FOUR_BIT
from inspector.errors import InspectorError, UnsupportedModelError, one_line
from inspector.memory.verdict import find_overhead, find_usable_bytes
from inspector.model.build import count_model
from inspector.model.quantize import plan_quantization
from inspector.planning.advice import (
    LORA,
    WITHOUT_ADAPTER,
    Change,
    apply_change,
    expand_segments,
    format_options,
    has_adapter,
    is_stored_quantized,
)
from inspector.planning.largest import Experience, find_nearly_largest, require_gpu
from inspector.planning.notices import find_precision_notices
from inspector.predict import Prediction, Predictor
from inspector.records.fit import Fit, Method, Plan, PlanRow
from inspector.records.notice import Notice
from inspector.records.recipe import Recipe
from inspector.records.request import AdapterDtype, LoraOptions, Preparation
from inspector.resolve import ResolvedRun
from inspector.run_keys import freeze
from inspector.runtime import processes
from inspector.runtime.quiet import silence_output
from inspector.runtime.stage import Stage
from inspector.workloads.base import NotTraceableError
from inspector.workloads.registry import load_workload

__all__ = ["build_plan"]

Progress = Callable[[str], None]
# The recipe that all candidates share as it runs on the model, and what the user should know of the two.
Facts: TypeAlias = tuple[Recipe, tuple[Notice, ...]]

# The largest sequence length is found to a multiple of so many tokens: nobody acts on less.
_SEQ_LEN_UNIT = 64


class _Lever(NamedTuple):
    """Something that saves memory: its name in a few words, and what it changes in the request."""

    words: str
    change: Change


# The default of transformers, and of a request.
_FUSED = _Lever("adamw_torch_fused", {})
_EIGHT_BIT = _Lever("adamw_8bit", {"optimizer": "adamw_8bit"})
_PAGED = _Lever("paged_adamw_8bit", {"optimizer": "paged_adamw_8bit"})
_ADAFACTOR = _Lever("adafactor", {"optimizer": "adafactor"})
_CHECKPOINTING = _Lever("checkpointing", {"gradient_checkpointing": True})
# Packed weights come with it: PEFT's preparation switches it on.
_PREPARED = _Lever("checkpointing", {})
_UNCHECKPOINTED = _Lever("no checkpointing", {"gradient_checkpointing": False})
_FLASH = _Lever("flash_attention_2", {"attention": "flash_attention_2"})
_ADAPTER_DTYPE = _Lever(
    "adapter in the base's dtype", {"autocast_adapter_dtype": False, "adapter_dtype": AdapterDtype.AUTO}
)
_EXPANDED = "expandable segments"
_ORDER = tuple(Fit)
# What changes training least comes first, in the order of `advice`: checkpointing costs time, flash-attn a package, an
# 8-bit optimizer or an adapter in half precision changes what is learned. Packed weights come with checkpointing.
_LADDERS: Mapping[Method, Sequence[Sequence[_Lever]]] = {
    Method.FULL: (
        *((_FUSED,), (_CHECKPOINTING, _FUSED), (_FLASH, _FUSED), (_CHECKPOINTING, _FLASH, _FUSED)),
        *((_EIGHT_BIT,), (_CHECKPOINTING, _EIGHT_BIT), (_CHECKPOINTING, _FLASH, _EIGHT_BIT)),
        *((_CHECKPOINTING, _PAGED), (_CHECKPOINTING, _ADAFACTOR)),
    ),
    Method.ADAPTER: (
        *((_FUSED,), (_CHECKPOINTING, _FUSED), (_FLASH, _FUSED), (_CHECKPOINTING, _FLASH, _FUSED)),
        *((_EIGHT_BIT,), (_CHECKPOINTING, _EIGHT_BIT)),
        *((_FUSED, _ADAPTER_DTYPE), (_CHECKPOINTING, _FUSED, _ADAPTER_DTYPE)),
    ),
    Method.QUANTIZED_ADAPTER: (
        *((_PREPARED, _FUSED), (_PREPARED, _FLASH, _FUSED), (_PREPARED, _PAGED), (_PREPARED, _FLASH, _PAGED)),
        *((_UNCHECKPOINTED, _FUSED), (_UNCHECKPOINTED, _FLASH, _FUSED), (_UNCHECKPOINTED, _PAGED)),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A recipe to trace: what it changes in the request (shown as `options`), and its levers in a few words."""

    method: Method
    change: Change
    options: str
    levers: tuple[str, ...]


def build_plan(
    run: ResolvedRun,
    quantities: Sequence[str],
    versions: Mapping[str, str],
    notices: Sequence[Notice],
    progress: Progress,
) -> Plan:
    """Return what all candidates share, and a row for each; `quantities` are what to search for each of them.

    Raises UsageError where the adapter that was asked for cannot be, UnsupportedModelError where no candidate can be
    traced.
    """
    candidates = _list_candidates(run)
    # Candidates that keep the same for the backward pass are traced one after the other: one helps the next.
    alike: dict[_Kept, list[_Candidate]] = {}
    for candidate in candidates:
        alike.setdefault(_find_kept(candidate), []).append(candidate)
    # What takes longest goes first, so that no process is left alone with it at the end: checkpointed candidates fit
    # most, and those on packed weights have the longest tapes.
    longest_first = list(reversed(alike))
    longest_first.sort(key=lambda key: (not key.is_checkpointed, -len(alike[key])))
    predictor = Predictor(run.files)
    tasks: list[Callable[[], Any]] = [functools.partial(_find_shared_facts, run, candidates)]
    tasks += [functools.partial(_build_rows, run, quantities, predictor, alike[key]) for key in longest_first]
    done: dict[int, Any] = {}
    progress(_describe_tracing(candidates, [alike[key] for key in longest_first], done))
    for index, result in processes.run_in_processes(lambda task: task(), tasks):
        done[index] = result
        progress(_describe_tracing(candidates, [alike[key] for key in longest_first], done))
    found = [pair for index, key in enumerate(longest_first, 1) for pair in zip(alike[key], done[index], strict=True)]
    found.sort(key=lambda pair: candidates.index(pair[0]))
    ordered = tuple(row for _, row in found)
    if all(row.total_bytes is None for row in ordered):
        raise UnsupportedModelError(f"no step could be traced: {ordered[0].refused}; `count_only` has the counts.")
    recipe, shared = done[0]
    gpu = require_gpu(run)
    return Plan(
        versions=versions,
        model=str(run.request.model) if run.files is None else run.files.id,
        gpu=gpu.name,
        memory_bytes=gpu.memory_bytes,
        usable_bytes=find_usable_bytes(gpu, find_overhead(gpu).bytes, shared=run.recipe.vllm_share or 0.0),
        margin_bytes=predictor.find_margin_bytes(run),
        recipe=f"batch size {recipe.batch_size:,}"
        f"{'' if recipe.seq_len is None else f', sequence length {recipe.seq_len:,}'}, "
        f"mixed precision {recipe.mixed_precision}, attention {recipe.attention or 'of the model'}, loop {recipe.loop}",
        adapter=_find_adapter_name(run),
        quantities=tuple(quantities),
        rows=ordered,
        warnings=tuple(notice.message for notice in (*shared, *notices)),
    )


class _Kept(NamedTuple):
    """What decides most of what a candidate keeps for the backward pass, and which model it has."""

    method: Method
    is_checkpointed: bool
    has_adapter_in_base_dtype: bool


def _find_kept(candidate: _Candidate) -> _Kept:
    """Return what candidates that are traced one after the other have in common."""
    is_checkpointed = "checkpointing" in candidate.levers
    return _Kept(candidate.method, is_checkpointed, candidate.change.get("autocast_adapter_dtype") is False)


def _build_rows(
    run: ResolvedRun, quantities: Sequence[str], predictor: Predictor, candidates: Sequence[_Candidate]
) -> list[PlanRow]:
    """Return the rows of candidates that are much alike; `predictor` has the models that this process built before."""
    predictor = predictor.copy_models()
    experience = Experience()
    return [_build_row(run, candidate, quantities, predictor, experience) for candidate in candidates]


def _find_shared_facts(run: ResolvedRun, candidates: Sequence[_Candidate]) -> Facts:
    """Return the recipe that all candidates share as it runs on the model, and what the user should know of the two.

    Raises UsageError where the adapter that was asked for cannot be.
    """
    with_adapter = [candidate for candidate in candidates if candidate.method is not Method.FULL]
    bare = None if run.files is None else dataclasses.replace(run.files, checkpoint=None)
    counted, built = None, None
    for candidate in (*with_adapter[:1], *candidates[:1]):
        try:
            counted, built = count_model(apply_change(run.request, candidate.change), bare)
            break
        except InspectorError:
            if run.request.peft is not None:
                raise
    if counted is None or built is None:
        return run.recipe, ()
    workload = load_workload(run.workload)
    with silence_output():
        try:
            shared = workload.resolve(built.model, run.recipe)
        except NotTraceableError:
            return run.recipe, tuple(counted.notices)
        precision = find_precision_notices(run, counted)
        return shared, (
            *counted.notices,
            *precision,
            *workload.describe(built.model, run.recipe, shared, run.platform).notices,
        )


def _find_adapter_name(run: ResolvedRun) -> str:
    """Return PEFT's name of the method of the adapters in a plan."""
    config = run.request.peft if run.request.peft is not None or run.files is None else run.files.adapter_config
    if isinstance(config, Mapping):
        return str(config.get("peft_type", "LORA"))
    kind = "LORA" if config is None or isinstance(config, LoraOptions) else config.peft_type
    return str(getattr(kind, "value", kind))


def _describe_tracing(
    candidates: Sequence[_Candidate], groups: Sequence[Sequence[_Candidate]], done: Mapping[int, Any]
) -> Stage:
    """Say how many recipes are traced, and which are being tried: tasks are begun in their order, 0 being no group."""
    count = sum(len(groups[task - 1]) for task in done if task)
    words = f"tracing {len(candidates)} recipes, {count} done"
    waiting = [group for index, group in enumerate(groups, 1) if index not in done]
    if waiting:
        now = (f"{group[0].method.value}, {', '.join(group[0].levers)}" for group in waiting[: processes.count_cores()])
        words += f"; now {'; '.join(now)}"
    return Stage(words, heading=f"tracing {len(candidates)} recipes", done=count, total=len(candidates))


def _list_candidates(run: ResolvedRun) -> list[_Candidate]:
    """Return the candidates that this model has, each once: what a request has already makes two of them equal."""
    candidates: dict[Any, _Candidate] = {}
    # Where PEFT does not prepare packed weights, checkpointing does not come with them.
    comes_along = _PREPARED if run.request.preparation == Preparation.PEFT else _CHECKPOINTING
    for method, base in _list_methods(run).items():
        for rung in _LADDERS[method]:
            levers = [comes_along if lever is _PREPARED else lever for lever in rung]
            change = {**base, **{name: value for lever in levers for name, value in lever.change.items()}}
            candidate = _Candidate(
                method=method,
                change=change,
                options=format_options(change),
                levers=tuple(lever.words for lever in rung),
            )
            candidates.setdefault(freeze(apply_change(run.request, change)), candidate)
    return list(candidates.values())


def _list_methods(run: ResolvedRun) -> Mapping[Method, Change]:
    """Return the methods that the model can have, each with what it changes before any rung of its ladder.

    `request.quantization` says how the weights under an adapter are packed, none that they are not; by default in NF4.
    Weights that are stored in a form of bitsandbytes stay in it; those in another form are traced dequantized. Neither
    can be trained whole.
    """
    request, files = run.request, run.files
    adapter: Change = {} if has_adapter(run) else {"peft": LORA}
    is_stored = is_stored_quantized(files)
    asked = request.quantization or (None if is_stored else "nf4")
    # The dtype of products plays no part in whether the options go together.
    packing = plan_quantization({} if files is None else files.config, asked, request.double_quant, torch.float32)
    if packing is not None and packing.from_checkpoint:
        return {Method.QUANTIZED_ADAPTER: adapter}
    in_float: Change = {} if is_stored else {"quantization": None, "double_quant": None}
    methods = {} if is_stored else {Method.FULL: {**WITHOUT_ADAPTER, **in_float}}
    methods[Method.ADAPTER] = {**adapter, **in_float}
    if packing is not None:
        double = None if packing.method not in FOUR_BIT else request.double_quant is not False
        methods[Method.QUANTIZED_ADAPTER] = {**adapter, "quantization": packing.method, "double_quant": double}
    if files is not None and files.adapter_config is not None:
        methods.pop(Method.FULL, None)
    return methods


def _build_row(
    run: ResolvedRun,
    candidate: _Candidate,
    quantities: Sequence[str],
    predictor: Predictor,
    experience: Experience,
) -> PlanRow:
    """Trace one candidate and search the quantities, starting from the `experience` of the candidates before."""
    own = run.with_request(apply_change(run.request, candidate.change))
    options, levers = candidate.options, candidate.levers
    try:
        prediction = predictor.predict(own)
    except (NotTraceableError, InspectorError) as error:  # what stops one candidate, the others are worth knowing
        refused = one_line(error, 300)
        return PlanRow(method=candidate.method, options=options, levers=levers, refused=refused)
    verdict = prediction.judge()
    growing = None if verdict.outcome is Fit.YES else expand_segments(own)
    if growing is not None:  # costs nothing, and no trace
        expanded = own.with_request(apply_change(own.request, growing))
        better = predictor.predict(expanded).judge()
        if _ORDER.index(better.outcome) < _ORDER.index(verdict.outcome):
            own, prediction, verdict = expanded, predictor.predict(expanded), better
            options, levers = f"{options} {format_options(growing)}".strip(), (*levers, _EXPANDED)
    largest = {quantity: _find_largest(own, quantity, prediction, predictor, experience) for quantity in quantities}
    return PlanRow(
        method=candidate.method,
        options=options,
        levers=levers,
        outcome=verdict.outcome,
        peak_allocated_bytes=prediction.peak_allocated_bytes,
        total_bytes=prediction.total_bytes,
        headroom_bytes=verdict.headroom_bytes,
        largest_batch_size=largest.get("batch-size"),
        largest_seq_len=largest.get("seq-len"),
    )


def _find_largest(
    run: ResolvedRun, quantity: str, prediction: Prediction, predictor: Predictor, experience: Experience
) -> int | None:
    """Return the largest value of a quantity that fits, 0 where none does, None where that cannot be traced.

    A model without tokens has no sequence length.
    """
    if quantity == "seq-len" and prediction.recipe.seq_len is None:
        return None
    unit = _SEQ_LEN_UNIT if quantity == "seq-len" else 1
    try:
        found = find_nearly_largest(run, quantity, predictor, experience, unit=unit)
    except (NotTraceableError, InspectorError):
        return None
    traced = prediction.recipe.seq_len if quantity == "seq-len" and prediction.judge().outcome is Fit.YES else None
    return max(found, traced or 0)  # steps may pass over the sequence length that was asked for
