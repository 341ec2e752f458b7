"""`inspect plan`: ways to train one model on one card, each traced, with the largest batch and row that each allows.

A method is full fine-tuning, an adapter, or an adapter on packed weights. Each has a ladder of recipes: the optimizers
and switches that people turn to when memory is short, in the order of the harm that they do. A model that can have all
of them has 24. The files are read once, and ways that are much alike are traced in a process of their own.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch

from inspector.dtypes import FOUR_BIT
from inspector.errors import InspectorError, UnsupportedModelError, one_line
from inspector.model.build import count_model
from inspector.model.quantize import plan_quantization
from inspector.planning.advice import LORA, Change, changed, has_adapter, is_stored_quantized, options_text
from inspector.planning.largest import Experience, nearly_largest
from inspector.planning.predictor import Progress, Trial, Trials
from inspector.records.fit import Method, PlanRow
from inspector.records.hardware import Gpu
from inspector.records.notice import Notice
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Request
from inspector.records.source import SourceFiles
from inspector.runtime import processes
from inspector.runtime.quiet import quietly
from inspector.workloads.checks import checked
from inspector.workloads.training.trace_ import NotTraceableError, resolved, step_notices

__all__ = ["adapter_name", "planned"]

# The recipe that all ways share as it runs on the model, and what the user should know of the two.
Facts: TypeAlias = tuple[Recipe, tuple[Notice, ...]]

# The longest rows are found to a multiple of so many tokens: nobody acts on less.
_ROW_UNIT = 64

_PLAIN: Change = {"optimizer": "adamw_torch"}
_FUSED: Change = {"optimizer": "adamw_torch_fused"}
_EIGHT_BIT: Change = {"optimizer": "adamw_8bit"}
_PAGED: Change = {"optimizer": "paged_adamw_8bit"}
_ADAFACTOR: Change = {"optimizer": "adafactor"}
_CHECKPOINTING: Change = {"gradient_checkpointing": True}
_FLASH: Change = {"attention": "flash_attention_2"}
_ADAPTER_DTYPE: Change = {"autocast_adapter_dtype": False}
# An adapter has little optimizer state, so that its optimizer matters less than what it keeps for the backward pass.
_LADDERS: Mapping[Method, Sequence[Sequence[Change]]] = {
    Method.FULL: (
        *((_PLAIN,), (_FUSED,), (_EIGHT_BIT,)),
        *((_CHECKPOINTING, _PLAIN), (_CHECKPOINTING, _FUSED), (_CHECKPOINTING, _EIGHT_BIT)),
        *((_CHECKPOINTING, _EIGHT_BIT, _FLASH), (_CHECKPOINTING, _PAGED), (_CHECKPOINTING, _ADAFACTOR)),
    ),
    Method.ADAPTER: (
        *((_PLAIN,), (_PLAIN, _FLASH), (_EIGHT_BIT,), (_PLAIN, _ADAPTER_DTYPE)),
        *((_CHECKPOINTING, _PLAIN), (_CHECKPOINTING, _PLAIN, _FLASH), (_CHECKPOINTING, _EIGHT_BIT)),
        (_CHECKPOINTING, _PLAIN, _ADAPTER_DTYPE),
    ),
    Method.QUANTIZED_ADAPTER: (
        *((_PLAIN,), (_PAGED,), (_PLAIN, _FLASH)),
        *((_CHECKPOINTING, _PLAIN), (_CHECKPOINTING, _PAGED), (_CHECKPOINTING, _PLAIN, _FLASH)),
        (_CHECKPOINTING, _PAGED, _FLASH),
    ),
}
_WORDS = {
    "gradient_checkpointing": "checkpointing",
    "attention": "flash_attention_2",
    "autocast_adapter_dtype": "adapter in the base's dtype",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """One row to be: what it changes in the request (of which `options` are said), and its levers in a few words."""

    method: Method
    change: Change
    options: str
    levers: tuple[str, ...]


def planned(
    request: Request, files: SourceFiles | None, gpu: Gpu, quantities: Sequence[str], progress: Progress
) -> tuple[Facts, tuple[PlanRow, ...]]:
    """Return what all ways to train share, and a row for each; `quantities` are what to turn up in each of them.

    Raises UsageError where the adapter that was asked for cannot be, UnsupportedModelError where no way can be traced.
    """
    ways = _ways(request, files)
    # Ways that keep the same for the backward pass follow each other: what one found helps the next.
    alike = {key: list(each) for key, each in itertools.groupby(ways, key=_keeps)}
    # What takes longest goes first, so that no process is left alone with it at the end: checkpointed ways fit most,
    # and those on packed weights have the longest tapes.
    longest_first = list(reversed(alike))
    longest_first.sort(key=lambda key: (not key.is_checkpointed, -len(alike[key])))
    trials = Trials(files, gpu)
    tasks: list[Callable[[], Any]] = [functools.partial(_shared_facts, request, files, ways)]
    tasks += [functools.partial(_rows, request, gpu, quantities, trials, alike[key]) for key in longest_first]
    done: dict[int, Any] = {}
    progress(f"tracing {len(ways)} recipes")
    for index, result in processes.each(lambda task: task(), tasks):
        done[index] = result
        count = sum(len(rows) for task, rows in done.items() if task)
        progress(f"tracing {len(ways)} recipes, {count} done")
    rows = {key: done[index] for index, key in enumerate(longest_first, 1)}
    ordered = [row for key in alike for row in rows[key]]
    if all(row.total_bytes is None for row in ordered):
        raise UnsupportedModelError(
            f"no step could be traced: {ordered[0].refused}; `inspect MODEL --count-only` has the counts."
        )
    return done[0], tuple(ordered)


class _Keeps(NamedTuple):
    """What decides most of what a way keeps for the backward pass, and which model it has."""

    method: Method
    is_checkpointed: bool
    has_adapter_in_base_dtype: bool


def _keeps(way: _Way) -> _Keeps:
    """Return what ways that are traced one after the other have in common."""
    return _Keeps(way.method, "gradient_checkpointing" in way.change, "autocast_adapter_dtype" in way.change)


def _rows(request: Request, gpu: Gpu, quantities: Sequence[str], trials: Trials, ways: Sequence[_Way]) -> list[PlanRow]:
    """Return the rows of ways that are much alike; `trials` has the models that this process has built before."""
    trials = trials.anew()
    experience = Experience()
    return [_row(request, way, gpu, quantities, trials, experience) for way in ways]


def _shared_facts(request: Request, files: SourceFiles | None, ways: Sequence[_Way]) -> Facts:
    """Return the recipe that all ways share as it runs on the model, and what the user should know of the two.

    Raises UsageError where the adapter that was asked for cannot be.
    """
    with_adapter = [way for way in ways if way.method is not Method.FULL]
    bare = None if files is None else dataclasses.replace(files, checkpoint=None)
    counted = None
    for way in (*with_adapter[:1], *ways[:1]):
        try:
            counted = count_model(changed(request, way.change), bare)
            break
        except InspectorError:
            if request.peft is not None:
                raise
    recipe = checked(request.recipe)
    if counted is None or counted.trainable is None:
        return recipe, ()
    with quietly():
        try:
            shared = resolved(counted.trainable, recipe)
        except NotTraceableError:
            return recipe, tuple(counted.notices)
        return shared, (*counted.notices, *step_notices(counted.trainable, recipe, shared))


def adapter_name(request: Request, files: SourceFiles | None) -> str:
    """Return PEFT's name of the method of the adapters in a plan."""
    config = request.peft if request.peft is not None or files is None else files.adapter_config
    if isinstance(config, Mapping):
        return str(config.get("peft_type", "LORA"))
    kind = "LORA" if config is None or isinstance(config, LoraOptions) else config.peft_type
    return str(getattr(kind, "value", kind))


def _ways(request: Request, files: SourceFiles | None) -> list[_Way]:
    """Return the ways to train that this model has, each once: what a request has already makes two of them equal."""
    ways: dict[str, _Way] = {}
    for method, base in _methods(request, files).items():
        for rung in _LADDERS[method]:
            levers = {name: value for each in rung for name, value in each.items()}
            change = {**base, **levers}
            words = tuple(str(value) if name == "optimizer" else _WORDS[name] for name, value in levers.items())
            way = _Way(method=method, change=change, options=options_text(change), levers=words)
            ways.setdefault(repr(changed(request, change)), way)
    return list(ways.values())


def _methods(request: Request, files: SourceFiles | None) -> Mapping[Method, Change]:
    """Return the methods that the model can have, each with what it changes before any rung of its ladder.

    `request.quantization` says how the weights under an adapter are packed, none that they are not; by default in NF4.
    Weights that are stored in a form of bitsandbytes stay in it; those in another form are traced dequantized.
    """
    adapter: Change = {} if has_adapter(request, files) else {"peft": LORA}
    is_stored = is_stored_quantized(files)
    asked = request.quantization or (None if is_stored else "nf4")
    # The dtype of products plays no part in whether the options go together.
    packing = plan_quantization({} if files is None else files.config, asked, request.double_quant, torch.float32)
    if packing is not None and packing.from_checkpoint:
        return {Method.QUANTIZED_ADAPTER: adapter}
    in_float: Change = {} if is_stored else {"quantization": None, "double_quant": None}
    methods = {Method.FULL: {"peft": None, **in_float}, Method.ADAPTER: {**adapter, **in_float}}
    if packing is not None:
        double = None if packing.method not in FOUR_BIT else request.double_quant is not False
        methods[Method.QUANTIZED_ADAPTER] = {**adapter, "quantization": packing.method, "double_quant": double}
    if files is not None and files.adapter_config is not None:
        del methods[Method.FULL]
    return methods


def _row(
    request: Request, way: _Way, gpu: Gpu, quantities: Sequence[str], trials: Trials, experience: Experience
) -> PlanRow:
    """Trace one way, and turn up the quantities; `experience` is what the ways before came to."""
    asked = changed(request, way.change)
    try:
        trial = trials.run(asked)
    except Exception as error:  # whatever stops one way, the others are worth knowing
        return PlanRow(method=way.method, options=way.options, levers=way.levers, refused=one_line(error, 300))
    verdict = trial.on(gpu)
    largest = {each: _largest(asked, each, trial, gpu, trials, experience) for each in quantities}
    return PlanRow(
        method=way.method,
        options=way.options,
        levers=way.levers,
        fits=verdict.fits,
        peak_allocated_bytes=trial.peak_allocated_bytes,
        total_bytes=trial.total_bytes,
        headroom_bytes=verdict.headroom_bytes,
        largest_batch_size=largest.get("batch-size"),
        largest_seq_len=largest.get("seq-len"),
    )


def _largest(
    request: Request, quantity: str, trial: Trial, gpu: Gpu, trials: Trials, experience: Experience
) -> int | None:
    """Return the largest value of a quantity that fits, 0 where none does, None where that cannot be traced.

    A model without tokens has no length of rows.
    """
    if quantity == "seq-len" and trial.recipe.seq_len is None:
        return None
    unit = _ROW_UNIT if quantity == "seq-len" else 1
    try:
        found = nearly_largest(request, quantity, gpu, trials, experience, unit=unit)
    except (NotTraceableError, InspectorError):
        return None
    traced = trial.recipe.seq_len if quantity == "seq-len" and trial.on(gpu).fits else None
    return max(found, traced or 0)  # steps may pass over the row that was asked for
