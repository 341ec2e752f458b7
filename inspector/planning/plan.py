"""`inspect plan`: recipes to train one model on one card, each traced, with its largest batch size and sequence length.

Of a generation they are ways to run it: what saves memory beside weights in float and in 4 bits, with the largest batch
size and prompt.

A method is full fine-tuning, an adapter, or an adapter on packed weights. Each has a ladder of recipes: the optimizers
and switches that people turn to when memory is short, in the order of the harm that they do. A model that can have all
of them has 24. The files are read once, and candidates that are much alike are traced in a process of their own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from inspector.errors import InspectorError, NotTraceableError, UnsupportedModelError, one_line
from inspector.memory.verdict import find_overhead, find_usable_bytes
from inspector.model.build import count_model
from inspector.planning.changes import apply_change, format_options, has_adapter
from inspector.planning.generation.largest import find_largest_generation
from inspector.planning.ladder import Candidate, judge_candidate, list_groups
from inspector.planning.largest import Experience, find_nearly_largest, require_gpu
from inspector.planning.notices import find_precision_notices
from inspector.predict.generation import is_long
from inspector.predict.predictor import Prediction, Predictor
from inspector.records.fit import VARIED_BY_A_PLAN, Fit, Method, Plan, PlanRow
from inspector.records.notice import Notice
from inspector.records.recipe import Attention, Recipe, find_prompt_len
from inspector.records.request import LoraOptions
from inspector.resolve import ResolvedRun
from inspector.runtime import processes
from inspector.runtime.quiet import silence_output
from inspector.runtime.stage import Stage
from inspector.training_files.changes import can_spell, spell_change
from inspector.units import format_bytes
from inspector.workloads.base import base_model
from inspector.workloads.limits import find_positions
from inspector.workloads.registry import load_workload

__all__ = ["build_plan", "build_rows", "describe_plan", "find_shared_facts", "list_candidates"]

Progress = Callable[[str], None]
# The recipe that all candidates share as it runs on the model, and what the user should know of the two.
Facts: TypeAlias = tuple[Recipe, tuple[Notice, ...]]

# The largest sequence length is found to a multiple of so many tokens: nobody acts on less.
_SEQ_LEN_UNIT = 64
# On so few cores what candidates share is worth more than an even distribution.
_FEW_CORES = 2
# Levers in words.
_EXPANDED = "expandable segments"
_FLASH = "flash_attention_2"


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
    predictor = Predictor(run.files)
    candidates = list_candidates(run, predictor)
    # Candidates that keep the same for the backward pass are traced one after the other: one helps the next, and helps
    # others of its method, which go with it where so few processes have enough to do.
    is_shared = processes.count_cores() <= _FEW_CORES
    alike: dict[_Kept, list[Candidate]] = {}
    for candidate in candidates:
        kept = _find_kept(candidate)
        alike.setdefault(kept._replace(is_checkpointed=True) if is_shared else kept, []).append(candidate)
    # What takes longest goes first, so that no process is left alone with it at the end: checkpointed candidates fit
    # most, and tapes of packed weights have about twice the events.
    events = {key: len(alike[key]) * (2 if key.method is Method.QUANTIZED_ADAPTER else 1) for key in alike}
    longest_first = sorted(alike, key=lambda key: (not key.is_checkpointed, -events[key]))
    # What of the model the margin depends on is found beside the rows, too.
    tasks: list[Callable[[], Any]] = [
        lambda: (find_shared_facts(run, candidates), predictor.find_margin_bytes(run)),
    ]
    tasks += [functools.partial(build_rows, run, quantities, predictor, alike[key]) for key in longest_first]
    done: dict[int, Any] = {}
    progress(_describe_tracing(candidates, [alike[key] for key in longest_first], done))
    for index, result in processes.run_in_processes(lambda task: task(), tasks):
        done[index] = result
        progress(_describe_tracing(candidates, [alike[key] for key in longest_first], done))
    found = [pair for index, key in enumerate(longest_first, 1) for pair in zip(alike[key], done[index], strict=True)]
    found.sort(key=lambda pair: candidates.index(pair[0]))
    ordered = tuple(_leave_out_equal_attention([row for _, row in found]))
    if all(row.total_bytes is None for row in ordered):
        raise UnsupportedModelError(f"no step could be traced: {ordered[0].refused}; `count_only` has the counts.")
    facts, margin_bytes = done[0]
    return describe_plan(run, facts, ordered, versions, notices, margin_bytes=margin_bytes, quantities=quantities)


def describe_plan(
    run: ResolvedRun,
    facts: Facts,
    rows: Sequence[PlanRow],
    versions: Mapping[str, str],
    notices: Sequence[Notice],
    *,
    margin_bytes: int,
    quantities: Sequence[str] = (),
    gpu_counts: tuple[int, int] | None = None,
) -> Plan:
    """Return the plan with these rows, and what there is to say of all of them."""
    recipe, shared = facts
    gpu = require_gpu(run)
    return Plan(
        versions=versions,
        model=str(run.request.model) if run.files is None else run.files.id,
        gpu=gpu.name,
        memory_bytes=gpu.memory_bytes,
        usable_bytes=find_usable_bytes(gpu, find_overhead(gpu).bytes, shared=run.recipe.vllm_share or 0.0),
        margin_bytes=margin_bytes,
        recipe=_describe_recipe(run, recipe),
        adapter=_find_adapter_name(run) if run.workload.trains or has_adapter(run) else None,
        quantities=tuple(quantities),
        rows=tuple(rows),
        warnings=tuple(notice.message for notice in (*shared, *notices)),
        gpu_counts=gpu_counts,
        source=run.request.source,
    )


def _describe_recipe(run: ResolvedRun, recipe: Recipe) -> str:
    """Return in words what all candidates have in common."""
    parts = [f"batch size {recipe.batch_size:,}"]
    if run.workload.generates:
        parts.append(f"{find_prompt_len(recipe):,} + {recipe.new_tokens:,} tokens")
    elif recipe.seq_len is not None:
        parts.append(f"sequence length {recipe.seq_len:,}")
    parts += [f"mixed precision {recipe.mixed_precision}", f"attention {recipe.attention or 'of the model'}"]
    if run.workload.trains:
        parts.append(f"loop {recipe.loop}")
    return ", ".join(parts)


def _leave_out_equal_attention(rows: Sequence[PlanRow]) -> Iterator[PlanRow]:
    """Yield rows but for those that come to the figures of the same candidate without flash-attn.

    Without padding scaled_dot_product_attention runs the very kernel of that package.
    """
    figures = {(row.method, tuple(row.levers)): _list_figures(row) for row in rows}
    for row in rows:
        others = tuple(name for name in row.levers if name != _FLASH)
        is_equal = _FLASH in row.levers and figures.get((row.method, others)) == _list_figures(row)
        if row.refused is not None or not is_equal:
            yield row


def _list_figures(row: PlanRow) -> tuple[object, ...]:
    """Return all figures of a candidate as a plan shows them."""
    sizes = (row.peak_allocated_bytes, row.total_bytes, row.headroom_bytes)
    shown = (None if size is None else format_bytes(size) for size in sizes)
    return (row.outcome, *shown, row.largest_batch_size, row.largest_seq_len, row.largest_prompt_len)


class _Kept(NamedTuple):
    """What decides most of what a candidate keeps for the backward pass, and which model it has."""

    method: Method | None
    is_checkpointed: bool
    has_adapter_in_base_dtype: bool


def _find_kept(candidate: Candidate) -> _Kept:
    """Return what candidates that are traced one after the other have in common."""
    is_checkpointed = "checkpointing" in candidate.levers
    return _Kept(candidate.method, is_checkpointed, candidate.change.get("autocast_adapter_dtype") is False)


def build_rows(
    run: ResolvedRun, quantities: Sequence[str], predictor: Predictor, candidates: Sequence[Candidate]
) -> list[PlanRow]:
    """Return the rows of candidates that are much alike; `predictor` has the models that this process built before."""
    predictor = predictor.copy_models()
    experiences: defaultdict[_Kept, Experience] = defaultdict(Experience)
    rows = []
    for candidate in candidates:
        # The tapes of long generations are too long to be kept beside each other.
        own = predictor.copy_models() if is_long(run) else predictor
        rows.append(_build_row(run, candidate, quantities, own, experiences[_find_kept(candidate)]))
    return rows


def find_shared_facts(run: ResolvedRun, candidates: Sequence[Candidate]) -> Facts:
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
            *_list_positions(run, built.model),
        )


def _list_positions(run: ResolvedRun, model: Any) -> Iterator[Notice]:
    """Yield how far the prompts of a generation can go, whatever fits."""
    positions = find_positions(base_model(model)) if run.workload.generates else None
    if positions is not None:
        message = f"The model is made for {positions:,} positions, whatever length of a prompt memory holds."
        yield Notice(code="beyond-positions", message=message)


def _find_adapter_name(run: ResolvedRun) -> str:
    """Return PEFT's name of the method of the adapters in a plan."""
    config = run.request.peft if run.request.peft is not None or run.files is None else run.files.adapter_config
    if isinstance(config, Mapping):
        return str(config.get("peft_type", "LORA"))
    kind = "LORA" if config is None or isinstance(config, LoraOptions) else config.peft_type
    return str(getattr(kind, "value", kind))


def _describe_tracing(
    candidates: Sequence[Candidate], groups: Sequence[Sequence[Candidate]], done: Mapping[int, Any]
) -> Stage:
    """Say how many recipes are traced, and which are being tried: tasks are begun in their order, 0 being no group."""
    count = sum(len(groups[task - 1]) for task in done if task)
    words = f"tracing {len(candidates)} recipes, {count} done"
    waiting = [group for index, group in enumerate(groups, 1) if index not in done]
    if waiting:
        first = (group[0] for group in waiting[: processes.count_cores()])
        now = (f"{_find_method(candidate).value}, {', '.join(candidate.levers)}" for candidate in first)
        words += f"; now {'; '.join(now)}"
    return Stage(words, heading=f"tracing {len(candidates)} recipes", done=count, total=len(candidates))


def list_candidates(run: ResolvedRun, predictor: Predictor) -> list[Candidate]:
    """Return the rungs that this model has, method by method; how large a batch can be is searched for each."""
    groups = list_groups(run, accumulates=predictor.find_dependence(run) is None)
    candidates = [candidate for group in groups for candidate in group.rungs]
    return [item for item in candidates if run.workload.trains or "batch_size" not in item.change]


def _spell(run: ResolvedRun, own: ResolvedRun) -> Mapping[str, Any] | None:
    """Return what makes of the file of a run that of a candidate, whose optimizer and checkpointing are its own."""
    if not can_spell(run.request, own.request):
        return None
    return spell_change(run.request, own.request, beside=VARIED_BY_A_PLAN)


def _find_method(candidate: Candidate) -> Method:
    """Return how a candidate trains, or is loaded."""
    assert candidate.method is not None, "a plan is of training or of a generation"
    return candidate.method


def _build_row(
    run: ResolvedRun,
    candidate: Candidate,
    quantities: Sequence[str],
    predictor: Predictor,
    experience: Experience,
) -> PlanRow:
    """Trace one candidate and search the quantities, starting from the `experience` of the candidates before."""
    asked = run.with_request(apply_change(run.request, candidate.change))
    options, levers = format_options(candidate.change), candidate.levers
    try:
        judged = judge_candidate(asked, predictor)
    except (NotTraceableError, InspectorError) as error:  # what stops one candidate, the others are worth knowing
        refused = one_line(error, 300)
        return PlanRow(method=_find_method(candidate), options=options, levers=levers, refused=refused)
    own, prediction, verdict = judged.run, judged.prediction, judged.verdict
    if judged.growing is not None:
        options, levers = f"{options} {format_options(judged.growing)}".strip(), (*levers, _EXPANDED)
    if is_long(own) and own.recipe.attention == Attention.FLASH_ATTENTION_2:
        quantities = ()  # each of its steps is traced, for each size anew
    largest = {quantity: _find_largest(own, quantity, prediction, predictor, experience) for quantity in quantities}
    return PlanRow(
        method=_find_method(candidate),
        options=options,
        levers=levers,
        in_file=_spell(run, own),
        outcome=verdict.outcome,
        peak_allocated_bytes=prediction.peak_allocated_bytes,
        total_bytes=prediction.total_bytes,
        headroom_bytes=verdict.headroom_bytes,
        largest_batch_size=largest.get("batch-size"),
        largest_seq_len=largest.get("seq-len"),
        largest_prompt_len=largest.get("prompt-len"),
    )


def _find_largest(
    run: ResolvedRun, quantity: str, prediction: Prediction, predictor: Predictor, experience: Experience
) -> int | None:
    """Return the largest value of a quantity that fits, 0 where none does, None where that cannot be traced.

    A model without tokens has no sequence length.
    """
    if quantity == "seq-len" and prediction.recipe.seq_len is None:
        return None
    unit = 1 if quantity == "batch-size" else _SEQ_LEN_UNIT
    try:
        if is_long(run):
            return find_largest_generation(run, quantity, prediction, predictor, experience, unit=unit)
        found = find_nearly_largest(run, quantity, predictor, experience, unit=unit)
    except (NotTraceableError, InspectorError):
        return None
    own = {"seq-len": prediction.recipe.seq_len, "prompt-len": prediction.recipe.prompt_len}.get(quantity)
    traced = own if prediction.judge().outcome is Fit.YES else None
    return max(found, traced or 0)  # steps may pass over the length that was asked for
