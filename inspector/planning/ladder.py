"""The one ladder of recipes that `inspect` advises from and `inspect plan` lists, and how a rung of it is judged.

A group is a way to train: every weight, an adapter, an adapter on packed weights. Its rungs are sets of levers, in the
order of the harm that they do: what costs time or a package comes before what changes how the batch is cut, that before
another optimizer, and that before an adapter in half precision. A set does more harm than another if its most harmful
lever does. What fits first in this order is recommended (`find_recommended` in `records.fit`), by both commands. Where
nothing trains each group is one lever more, and none is left out for those before it.

A lever that a run has already, or that means nothing to it, changes nothing, and of rungs that come to the same the
first one stays. Sizes are no rungs: other sequences, or other negatives, are another task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from inspector.dtypes import FOUR_BIT
from inspector.planning.changes import (
    IN_FLOAT,
    LORA,
    WITHOUT_ADAPTER,
    Change,
    apply_change,
    expand_segments,
    find_stored_dtype,
    has_adapter,
    is_of_recipe,
    is_stored_quantized,
)
from inspector.predict.predictor import Prediction, Predictor
from inspector.predict.run_keys import freeze
from inspector.quantization.declared import find_declared
from inspector.records.fit import Fit, Method, Verdict
from inspector.records.recipe import AdapterState, find_prompt_len
from inspector.records.request import AdapterDtype, Quantization, QuantStorage, Sharding
from inspector.records.tape import WorkloadInfo
from inspector.resolve import ResolvedRun, is_packed
from inspector.training_files.changes import can_spell

__all__ = ["Candidate", "Group", "Judged", "find_own_method", "judge_candidate", "list_groups"]

# Tokens of a prompt that go through a model at once where it is split.
_PROMPT_PIECE = 4096
_ADAMW = ("adamw_torch", "adamw_torch_fused")
_EIGHT_BITS = ("adamw_8bit", "adamw_bnb_8bit")
_HALVES = ("bfloat16", "float16")
_ORDER = tuple(Fit)


class _Lever(NamedTuple):
    """Something that saves memory: its name in a few words, and what it changes in a run, None where nothing."""

    words: str
    make: Callable[[ResolvedRun], Change | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A rung: what it changes in the request, and its levers in a few words."""

    method: Method | None
    change: Change
    levers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A way to run, None as the `method` where nothing trains, with its rungs in the order of the harm that they do."""

    method: Method | None
    rungs: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A run that was traced, with growing segments where that made its verdict better: `growing` is that change."""

    run: ResolvedRun
    prediction: Prediction
    verdict: Verdict
    growing: Change | None = None


# --- levers -----------------------------------------------------------------------------------------------------------


def _fuse_optimizer(run: ResolvedRun) -> Change | None:
    recipe = run.recipe
    return {"optimizer": "adamw_torch_fused"} if recipe.optimizer == "adamw_torch" and not recipe.optim_args else None


def _checkpoint_gradients(run: ResolvedRun) -> Change | None:
    return None if run.recipe.gradient_checkpointing else {"gradient_checkpointing": True}


def _keep_activations(run: ResolvedRun) -> Change | None:
    """Leave out the checkpointing that packed weights come with, where nobody said anything of it."""
    is_default = run.request.recipe.gradient_checkpointing is None and run.recipe.gradient_checkpointing
    return {"gradient_checkpointing": False} if is_default else None


def _use_flash_attention(run: ResolvedRun) -> Change | None:
    """Attend by flash-attn's kernel: of a generation without padding torch's own is the same."""
    recipe = run.recipe
    is_padded = recipe.batch_size > 1 if recipe.padding is None else recipe.padding
    is_same = run.workload.generates and not is_padded and recipe.attention in (None, "sdpa")
    return None if is_same or recipe.attention == "flash_attention_2" else {"attention": "flash_attention_2"}


def _accumulate(run: ResolvedRun) -> Change | None:
    """Accumulate gradients over micro-batches of one sequence: the same sequences per step."""
    batch_size = run.recipe.batch_size
    if batch_size == 1:
        return None
    return {"batch_size": 1, "gradient_accumulation": batch_size * run.recipe.gradient_accumulation}


def _replace_optimizer(name: str, *instead_of: str) -> Callable[[ResolvedRun], Change | None]:
    """Return what puts an optimizer in the place of some."""

    def make(run: ResolvedRun) -> Change | None:
        recipe = run.recipe
        return {"optimizer": name} if recipe.optimizer in instead_of and not recipe.optim_args else None

    return make


def _keep_stored_dtype(run: ResolvedRun) -> Change | None:
    """Leave the frozen weights under an adapter in the half precision that they are stored in, which autocast uses."""
    stored = find_stored_dtype(run.files)
    is_upcast = run.request.dtype == "float32" and run.recipe.mixed_precision != "no" and stored in _HALVES
    return {"dtype": stored} if has_adapter(run) and is_upcast else None


def _keep_adapter_dtype(run: ResolvedRun) -> Change | None:
    """Leave the adapter in the half precision of its base."""
    request = run.request
    is_upcast = request.autocast_adapter_dtype and request.adapter_dtype == AdapterDtype.AUTO
    applies = has_adapter(run) and is_upcast and request.quantization not in FOUR_BIT
    return {"autocast_adapter_dtype": False} if applies else None


def _split_prompt(run: ResolvedRun) -> Change | None:
    """Let the prompt go through the model in pieces: masks and products are smaller, the tokens the same."""
    recipe = run.recipe
    applies = run.workload.generates and recipe.prefill_chunk_size is None and recipe.cache != "none"
    return {"prefill_chunk_size": _PROMPT_PIECE} if applies and find_prompt_len(recipe) > _PROMPT_PIECE else None


def _pack_cache(run: ResolvedRun) -> Change | None:
    """Keep keys and values in float8, which changes what is generated a little."""
    return {"cache": "fp8"} if run.workload.generates and run.recipe.cache == "dynamic" else None


def _pack_weights(run: ResolvedRun) -> Change | None:
    """Load the weights of what generates in NF4, as bitsandbytes does."""
    request = run.request
    is_asked = request.quantization in FOUR_BIT or request.quantization == Quantization.NONE
    is_merged = run.recipe.adapter == AdapterState.MERGED  # which PEFT does into weights in float
    applies = run.workload.generates and not is_asked and not is_merged and not is_stored_quantized(run.files)
    return {"quantization": "nf4", "double_quant": True} if applies else None


def _halve_prompts(run: ResolvedRun) -> Change | None:
    batch_size = run.recipe.batch_size
    return {"batch_size": batch_size // 2} if batch_size > 1 else None


# --- the ladder -------------------------------------------------------------------------------------------------------

_FUSED = _Lever("adamw_torch_fused", _fuse_optimizer)
_CHECKPOINTING = _Lever("checkpointing", _checkpoint_gradients)
_UNCHECKPOINTED = _Lever("no checkpointing", _keep_activations)
_FLASH = _Lever("flash_attention_2", _use_flash_attention)
_ACCUMULATION = _Lever("batch size 1, accumulated", _accumulate)
_EIGHT_BIT = _Lever("adamw_8bit", _replace_optimizer("adamw_8bit", *_ADAMW))
_PAGED = _Lever("paged_adamw_8bit", _replace_optimizer("paged_adamw_8bit", *_ADAMW, *_EIGHT_BITS))
_ADAFACTOR = _Lever("adafactor", _replace_optimizer("adafactor", *_ADAMW, *_EIGHT_BITS))
_STORED_DTYPE = _Lever("base as stored", _keep_stored_dtype)
_ADAPTER_DTYPE = _Lever("adapter in the base's dtype", _keep_adapter_dtype)
_PIECES = _Lever("prompt in pieces", _split_prompt)
_CACHE = _Lever("cache in float8", _pack_cache)
_HALF_BATCH = _Lever("half the batch", _halve_prompts)
_PACKED = _Lever("weights in nf4", _pack_weights)

# Checkpointing costs time, flash-attn a package, accumulation time; a frozen base in the half precision that it is
# stored in rounds what goes from layer to layer; another optimizer or an adapter in half precision changes what is
# learned. Packed weights come with the checkpointing of PEFT's preparation.
_RUNGS: Mapping[Method, Sequence[Sequence[_Lever]]] = {
    Method.FULL: (
        *((_FUSED,), (_CHECKPOINTING, _FUSED), (_FLASH, _FUSED), (_CHECKPOINTING, _FLASH, _FUSED)),
        *((_ACCUMULATION, _FUSED), (_CHECKPOINTING, _ACCUMULATION, _FUSED)),
        (_CHECKPOINTING, _FLASH, _ACCUMULATION, _FUSED),
        *((_EIGHT_BIT,), (_CHECKPOINTING, _EIGHT_BIT), (_CHECKPOINTING, _FLASH, _EIGHT_BIT)),
        (_CHECKPOINTING, _ACCUMULATION, _EIGHT_BIT),
        *((_CHECKPOINTING, _PAGED), (_CHECKPOINTING, _ACCUMULATION, _PAGED)),
        *((_CHECKPOINTING, _ADAFACTOR), (_CHECKPOINTING, _ACCUMULATION, _ADAFACTOR)),
    ),
    Method.ADAPTER: (
        *((_FUSED,), (_CHECKPOINTING, _FUSED), (_FLASH, _FUSED), (_CHECKPOINTING, _FLASH, _FUSED)),
        *((_ACCUMULATION, _FUSED), (_CHECKPOINTING, _ACCUMULATION, _FUSED)),
        (_CHECKPOINTING, _FLASH, _ACCUMULATION, _FUSED),
        *((_STORED_DTYPE, _FUSED), (_CHECKPOINTING, _STORED_DTYPE, _FUSED)),
        (_CHECKPOINTING, _ACCUMULATION, _STORED_DTYPE, _FUSED),
        *((_EIGHT_BIT,), (_CHECKPOINTING, _EIGHT_BIT), (_CHECKPOINTING, _ACCUMULATION, _EIGHT_BIT)),
        *((_FUSED, _ADAPTER_DTYPE), (_CHECKPOINTING, _FUSED, _ADAPTER_DTYPE)),
        (_CHECKPOINTING, _ACCUMULATION, _FUSED, _ADAPTER_DTYPE),
    ),
    Method.QUANTIZED_ADAPTER: (
        *((_CHECKPOINTING, _FUSED), (_CHECKPOINTING, _FLASH, _FUSED)),
        *((_CHECKPOINTING, _ACCUMULATION, _FUSED), (_CHECKPOINTING, _FLASH, _ACCUMULATION, _FUSED)),
        *((_CHECKPOINTING, _PAGED), (_CHECKPOINTING, _FLASH, _PAGED), (_CHECKPOINTING, _ACCUMULATION, _PAGED)),
        *((_UNCHECKPOINTED, _FUSED), (_UNCHECKPOINTED, _FLASH, _FUSED), (_UNCHECKPOINTED, _PAGED)),
    ),
}
# Where nothing trains: what leaves the results as they are, what changes them a little, then a smaller batch. Packed
# weights change them more than a packed cache.
_UNTRAINED: Sequence[Sequence[Sequence[_Lever]]] = (
    ((), (_FLASH,)),
    ((_PIECES,), (_FLASH, _PIECES)),
    ((_CACHE,), (_PIECES, _CACHE)),
)
_UNTRAINED_PACKED: Sequence[Sequence[_Lever]] = (
    (_PACKED,),
    (_PIECES, _PACKED),
    (_CACHE, _PACKED),
    (_PIECES, _CACHE, _PACKED),
)
_HALVED: Sequence[Sequence[_Lever]] = (
    *((_HALF_BATCH,), (_PIECES, _HALF_BATCH), (_CACHE, _HALF_BATCH), (_PIECES, _CACHE, _HALF_BATCH)),
)


def list_groups(run: ResolvedRun, *, accumulates: bool) -> tuple[Group, ...]:
    """Return the groups that a run can be changed to, each rung once.

    `accumulates` tells whether micro-batches of one sequence come to the same loss as the batch.
    """
    if not run.workload.trains:
        own = find_own_method(run)
        packed = None if own is None else Method.QUANTIZED_GENERATE
        untrained: list[tuple[Method | None, Change, Sequence[Sequence[_Lever]]]] = [
            *((own, {}, rungs) for rungs in _UNTRAINED),
            (packed, {}, _UNTRAINED_PACKED),
            (own, {}, _HALVED),
        ]
        return tuple(_build_groups(run, untrained, accumulates=False))
    return tuple(
        _build_groups(
            run, [(method, base, _RUNGS[method]) for method, base in _list_methods(run)], accumulates=accumulates
        )
    )


def find_own_method(run: ResolvedRun) -> Method | None:
    """Return how a run trains, or how what generates is loaded; None where it does neither."""
    if run.workload.generates:
        return Method.QUANTIZED_GENERATE if is_packed(run) else Method.GENERATE
    if not run.workload.trains:
        return None
    if not has_adapter(run):
        return Method.FULL
    return Method.QUANTIZED_ADAPTER if is_packed(run) else Method.ADAPTER


def _build_groups(
    run: ResolvedRun,
    ways: Iterable[tuple[Method | None, Change, Sequence[Sequence[_Lever]]]],
    *,
    accumulates: bool,
) -> list[Group]:
    """Return groups of rungs; of those that come to the same request the first one stays."""
    seen: set[Any] = set()
    groups = []
    for method, base, rungs in ways:
        found = []
        for levers in (form for rung in rungs for form in _list_forms(run, rung)):
            if _ACCUMULATION in levers and not accumulates:
                continue
            change = _pull(run, base, levers)
            request = apply_change(run.request, change)
            key = freeze(request)
            is_traced = run.launch is None or run.with_request(request).launch is not None
            if is_traced and key not in seen and can_spell(run.request, request):
                found.append(Candidate(method=method, change=change, levers=tuple(lever.words for lever in levers)))
            seen.add(key)
        if found:
            groups.append(Group(method=method, rungs=tuple(found)))
    return groups


def _list_forms(run: ResolvedRun, rung: Sequence[_Lever]) -> list[Sequence[_Lever]]:
    """Return a rung, before it without the fused optimizer where that is not the one of the run anyway."""
    if _FUSED not in rung or _fuse_optimizer(run) is None:
        return [rung]
    return [tuple(lever for lever in rung if lever is not _FUSED), rung]


def _pull(run: ResolvedRun, base: Change, levers: Iterable[_Lever]) -> Change:
    """Return what a set of levers changes in a run on top of the `base` of its group."""
    change = dict(base)
    for lever in levers:
        more = lever.make(run.with_request(apply_change(run.request, change)))
        if more is not None and _is_read(more, run.workload):
            change |= more
    return change


def _is_read(change: Change, workload: WorkloadInfo) -> bool:
    """Tell whether a change means something to a workload."""
    return {name for name in change if is_of_recipe(name)} <= workload.recipe_fields


class _Packing(NamedTuple):
    """How weights are packed, and whether they are stored so."""

    method: str
    is_stored: bool


def _find_packing(config: Mapping[str, Any], asked: str | None, double_quant: bool | None) -> _Packing | None:
    """Return how weights are packed as it was asked for, or as a checkpoint declares it; None where they are not."""
    if not isinstance(find_declared(config), Mapping) and (asked in FOUR_BIT or double_quant is None):
        return None if asked is None or asked == "none" else _Packing(asked, is_stored=False)
    import torch

    from inspector.model.quantize import plan_quantization

    # The dtype of products plays no part in whether the options go together.
    plan = plan_quantization(config, asked, double_quant, torch.float32)
    return None if plan is None else _Packing(plan.method, is_stored=plan.from_checkpoint)


def _list_methods(run: ResolvedRun) -> list[tuple[Method, Change]]:
    """Return the methods that the model can have, each with what it changes before any rung of its ladder.

    `request.quantization` says how the weights under an adapter are packed, none that they are not; by default in NF4.
    What was asked for in int8 can be packed more. Weights that are stored in a form of bitsandbytes stay in it; those
    in another form are traced dequantized. Neither can be trained whole.
    """
    request, files = run.request, run.files
    adapter: Change = {} if has_adapter(run) else {"peft": LORA}
    is_stored = is_stored_quantized(files)
    asked = request.quantization or (None if is_stored else "nf4")
    packing = _find_packing({} if files is None else files.config, asked, request.double_quant)
    if packing is not None and packing.is_stored:
        return [(Method.QUANTIZED_ADAPTER, adapter)]
    in_float: Change = {} if is_stored else dict(IN_FLOAT)
    methods: list[tuple[Method, Change]] = []
    if not is_stored and (files is None or files.adapter_config is None):
        methods.append((Method.FULL, {**WITHOUT_ADAPTER, **in_float}))
    methods.append((Method.ADAPTER, {**adapter, **in_float}))
    if packing is None:
        return methods
    # The adapter on 4-bit weights is in float32 (model/build.py).
    cast: Change = {} if is_packed(run) else {"autocast_adapter_dtype": True}
    double = None if packing.method not in FOUR_BIT else request.double_quant is not False
    packed = {**adapter, **cast, "quantization": packing.method, "double_quant": double}
    if packing.method in FOUR_BIT and request.sharding == Sharding.FSDP:
        packed["quant_storage"] = request.quant_storage or QuantStorage.BFLOAT16  # others are not sharded
    methods.append((Method.QUANTIZED_ADAPTER, packed))
    if is_packed(run) and not double:
        in_four_bits = {"quantization": "nf4" if double is None else packing.method, "double_quant": True}
        methods.append((Method.QUANTIZED_ADAPTER, {**packed, **in_four_bits, "autocast_adapter_dtype": True}))
    return methods


# --- how a rung is judged ---------------------------------------------------------------------------------------------


def judge_candidate(run: ResolvedRun, predictor: Predictor) -> Judged:
    """Judge a run, with growing segments too where it does not fit for sure: they cost nothing, and no trace.

    Raises what `Predictor.predict` does.
    """
    prediction = predictor.predict(run)
    verdict = prediction.judge()
    growing = None if verdict.outcome is Fit.YES else expand_segments(run)
    if growing is not None:
        expanded = run.with_request(apply_change(run.request, growing))
        again = predictor.predict(expanded)
        better = again.judge()
        if _ORDER.index(better.outcome) < _ORDER.index(verdict.outcome):
            return Judged(run=expanded, prediction=again, verdict=better, growing=growing)
    return Judged(run=run, prediction=prediction, verdict=verdict)
