"""inspect(Request) -> Report: the stages in order, one line each.

Importing this module loads none of the heavy libraries; `run` does. While the source is asked for the configuration,
which can mean waiting for the network, a thread already imports what builds the model.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import gc
import importlib
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from inspector.errors import InspectorError, UnsupportedModelError, UsageError, one_line, quoted
from inspector.memory.allocator.settings import AllocatorSettings
from inspector.records.checkpoint import CheckpointFacts
from inspector.records.fit import QUANTITIES, Plan, Search, Verdict
from inspector.records.memory import TextbookRule, TrainingMemory
from inspector.records.model import Counted
from inspector.records.notice import Notice
from inspector.records.recipe import Recipe
from inspector.records.report import Report
from inspector.records.request import Request
from inspector.records.source import SourceFiles
from inspector.runtime.patches import call_at_end, replace_item, restoring
from inspector.runtime.quiet import quietly
from inspector.units import format_bytes
from inspector.workloads.checks import ALLOCATOR_VARIABLE, allocator_settings, checked

if TYPE_CHECKING:
    from inspector.hardware.selection import Selection
    from inspector.records.comparison import Comparison
    from inspector.records.measurement import Measurement

__all__ = ["compare", "measure", "plan", "run"]

Progress = Callable[[str], None]

# Building a model sets things of the whole process and puts them back: torch's default dtype and registration hooks,
# loggers, warning filters, standard output. Two inspections at once would put back what the other one has set.
_ONE_AT_A_TIME = threading.RLock()


def run(request: Request, progress: Progress = lambda _stage: None) -> Report:
    """Inspect what `request` names and return everything that was found; raises InspectorError subclasses.

    Threads may call it; they take turns.
    """
    with _ONE_AT_A_TIME, restoring(), _no_collection():
        return _run(request, progress)


def plan(request: Request, quantities: Sequence[str], progress: Progress = lambda _stage: None) -> Plan:
    """Return ways to train the model of `request` on its GPU; `quantities` are what to turn up in each of them."""
    with _ONE_AT_A_TIME, restoring(), _no_collection():
        return _plan(request, quantities, progress)


def _plan(request: Request, quantities: Sequence[str], progress: Progress) -> Plan:
    """Read the files once and trace each way."""
    selection = _selection(request)
    if len(selection.gpus) != 1 or not selection.named:
        raise UsageError("a plan is for one GPU: give one --gpu NAME or one --gpu-memory 24GiB.")
    allocator_settings(checked(request.recipe), os.environ)
    progress("reading the configuration")
    files = _files(request, progress)
    progress("loading transformers and PEFT")

    from inspector.memory.verdict import overhead, usable_bytes
    from inspector.planning.plan import adapter_name, planned

    gpu = selection.gpus[0]
    (recipe, notices), rows = planned(request, files, gpu, quantities, progress)
    return Plan(
        versions=_versions(),
        model=str(request.model) if files is None else files.id,
        gpu=gpu.name,
        memory_bytes=gpu.memory_bytes,
        usable_bytes=usable_bytes(gpu, overhead(gpu).bytes),
        recipe=f"batch {recipe.batch_size:,}{'' if recipe.seq_len is None else f' × {recipe.seq_len:,} tokens'}, "
        f"mixed precision {recipe.mixed_precision}, attention {recipe.attention}, loop {recipe.loop}",
        adapter=adapter_name(request, files),
        quantities=tuple(quantities),
        rows=rows,
        warnings=tuple(notice.message for notice in (*notices, *selection.notices)),
    )


def compare(
    recipes: Sequence[tuple[str, Request | Mapping[str, Any]]], progress: Progress = lambda _stage: None
) -> tuple[Comparison, bool]:
    """Return what differs between recipes, each given with its name as a request or as the JSON of a report.

    Second is whether one of them fits all GPUs that were named, or none was. Raises what the inspection of one raises,
    with its name in front.
    """
    from inspector.planning.compare import compared

    reports: list[tuple[str, Mapping[str, Any]]] = []
    fits = []
    with _ONE_AT_A_TIME, restoring(), _no_collection():
        for name, recipe in recipes:
            if isinstance(recipe, Mapping):
                reports.append((name, recipe))
                continue
            said = f"recipe {len(reports) + 1} of {len(recipes)}"
            try:
                report = _run(recipe, functools.partial(_prefixed, progress, said))
            except InspectorError as error:
                raise type(error)(f"{one_line(name, 100)}: {error}") from error
            reports.append((name, report.to_dict()))
            if recipe.gpus or recipe.gpu_memory:
                fits.append(all(verdict.fits for verdict in report.fit or ()))
    return compared(reports, _versions()), not fits or any(fits)


def _prefixed(progress: Progress, said: str, stage: str) -> None:
    """Say a stage of one of several inspections."""
    progress(f"{said}: {stage}")


def measure(request: Request, progress: Progress = lambda _stage: None) -> Measurement:
    """Run the step of `request` on the CUDA device at hand and return it beside its prediction."""
    with _ONE_AT_A_TIME, restoring(), _no_collection():
        settings, recipe = allocator_settings(checked(request.recipe), os.environ)
        if recipe.alloc_conf is not None:
            replace_item(
                os.environ, ALLOCATOR_VARIABLE, recipe.alloc_conf
            )  # torch reads it when it makes its allocator
        progress("loading torch")

        with quietly():  # a bitsandbytes that does not load says so at length; `check` says it where it matters
            from inspector.measure.measuring import check, measured

        check(recipe, request.quantization)
        progress("reading the configuration")
        files = _files(request, progress)
        progress("loading transformers and PEFT")

        from inspector.model.build import count_model
        from inspector.source import catalogue

        bundled = None if files is None else catalogue.load(files.id)
        is_bundled = files is None or (bundled is not None and bundled.config == files.config)
        # Kept as it is: transformers writes into what is nested in a configuration.
        config = None if files is None or is_bundled else copy.deepcopy(dict(files.config))
        return measured(
            lambda: count_model(request, files),
            recipe,
            settings,
            _versions(),
            config,
            progress,
        )


def _run(request: Request, progress: Progress) -> Report:
    """Go through the stages."""
    selection = _selection(request)
    settings, recipe = allocator_settings(checked(request.recipe), {} if request.count_only else os.environ)
    progress("reading the configuration")
    preload = threading.Thread(target=_preload, daemon=True)
    preload.start()
    files = _files(request, progress)
    progress("loading transformers and PEFT")
    preload.join()
    search, request = _searched(request, files, selection, progress)
    settings, recipe = allocator_settings(checked(request.recipe), {} if request.count_only else os.environ)

    from inspector.memory.static import static_bytes
    from inspector.memory.textbook import textbook_rules
    from inspector.model.build import count_model

    progress("building the model without its weights")
    counted = count_model(request, files, progress)
    static = textbook = None
    traced = _Traced()
    if not request.count_only:
        static = static_bytes(
            counted.base_dtypes,
            counted.census,
            base_buffer_bytes=counted.base_buffer_bytes,
            base_frozen_bytes=sum(counted.base_frozen_dtypes.values()),
            has_adapter=counted.adapter is not None,
        )
        textbook = textbook_rules(static, counted.census, counted.base_dtypes, counted.base_frozen_dtypes)
        progress("tracing a training step")
        traced = _trace(counted, recipe, settings, selection, progress)
        traced = _advised(traced, request, files, selection, progress)
        textbook = dataclasses.replace(textbook, rules=(*textbook.rules, *traced.rules))
    return Report(
        versions=_versions(),
        model=counted.model,
        parameters=counted.census,
        quantization=counted.quantization,
        adapter=counted.adapter,
        checkpoint=_checkpoint(files, counted),
        static=static,
        training=traced.memory,
        textbook=textbook,
        fit=traced.fit,
        search=search,
        warnings=(*counted.notices, *selection.notices, *traced.notices),
    )


def _checkpoint(files: SourceFiles | None, counted: Counted) -> CheckpointFacts | None:
    """Return what the source stores of the counted model; an object of the Python API is stored nowhere."""
    from inspector.memory.checkpoint_cost import checkpoint_facts

    if files is None or files.checkpoint is None:
        return None
    return checkpoint_facts(files.checkpoint, counted)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traced:
    """What the trace of a step gave: nothing but notices where the step could not be traced."""

    memory: TrainingMemory | None = None
    fit: tuple[Verdict, ...] | None = None
    rules: tuple[TextbookRule, ...] = ()
    notices: tuple[Notice, ...] = ()


def _selection(request: Request) -> Selection:
    """Return the GPUs that the request is about; wrong names and sizes are said before any work."""
    from inspector.hardware.selection import select

    selection = select(request.gpus, request.gpu_memory)
    if request.fit is not None:
        if request.fit not in QUANTITIES:
            known = ", ".join(QUANTITIES)
            raise UsageError(f"--fit {quoted(request.fit, 60)} is nothing that can be searched; use one of {known}.")
        if not selection.named:
            raise UsageError(f"--fit {request.fit} says what fits a GPU: add --gpu NAME or --gpu-memory 24GiB.")
    if selection.named and request.count_only:
        raise UsageError("whether a step fits a GPU is traced: drop --count-only, or --gpu and --gpu-memory.")
    return selection


def _trace(
    counted: Counted, recipe: Recipe, settings: AllocatorSettings, selection: Selection, progress: Progress
) -> _Traced:
    """Trace a training step of the counted model, or say in a notice why this model's step cannot be traced."""
    from inspector.memory.replay import Replays
    from inspector.memory.textbook import activation_rules
    from inspector.memory.timeline import fold, kept_activations, training_memory
    from inspector.memory.verdict import overhead, verdict
    from inspector.workloads.training.trace_ import (
        NotTraceableError,
        block_shape,
        not_accounted,
        platform_of,
        resolved,
        step_notices,
        trace_training,
        traced_inputs,
    )

    if counted.trainable is None:
        _needs_a_trace(selection, "the step of a live model is not traced")
        return _Traced()
    platform, asked = platform_of(selection.traced), recipe
    notices: tuple[Notice, ...] = ()
    try:
        with quietly():
            recipe = resolved(counted.trainable, asked)
            notices = step_notices(counted.trainable, asked, recipe)
            tape = trace_training(counted.trainable, recipe, platform)
    except NotTraceableError as error:
        _needs_a_trace(selection, str(error))
        message = f"The training step was not traced: {error}. The static bytes are what is known."
        return _Traced(notices=(*notices, Notice(code="not-traced", message=message)))
    descending = platform.takes_lowest_address
    timeline = fold(tape, settings, descending_addresses=descending)
    memory = training_memory(
        timeline,
        recipe=recipe,
        platform=str(platform),
        overhead=overhead(selection.traced),
        not_accounted=not_accounted(counted.trainable, recipe),
        inputs=traced_inputs(counted.trainable, recipe),
    )
    shape = block_shape(counted.trainable)
    rules = () if shape is None else activation_rules(recipe, shape, kept_activations(tape, timeline))
    progress("holding the step against GPUs")
    replays = Replays.of(tape, settings, descending_addresses=descending)
    fit = tuple(verdict(gpu, replays) for gpu in selection.gpus)
    return _Traced(memory=memory, fit=fit, rules=rules, notices=notices)


def _searched(
    request: Request, files: SourceFiles | None, selection: Selection, progress: Progress
) -> tuple[Search | None, Request]:
    """Turn up what the request asks for until the first GPU is full; return what was found, and the request with it.

    Where nothing fits, the request is that of the smallest value.
    """
    if request.fit is None:
        return None, request
    from inspector.planning.largest import find_largest, with_value
    from inspector.planning.predictor import Trials

    trials = Trials(files, selection.traced)
    search = find_largest(request, request.fit, selection.gpus[0], trials, progress)
    return search, with_value(request, request.fit, search.value or search.tried[0].value)


def _advised(
    traced: _Traced, request: Request, files: SourceFiles | None, selection: Selection, progress: Progress
) -> _Traced:
    """Add to the verdicts on named GPUs what would make the step fit, or what could be turned up where it does."""
    verdicts = traced.fit or ()
    if traced.memory is None or not selection.named or not request.advice:
        return traced
    from inspector.planning.advice import find_advice
    from inspector.planning.headroom import find_room
    from inspector.planning.predictor import Trials

    trials = Trials(files, selection.traced)
    fit, notices = [], []
    for gpu, each in zip(selection.gpus, verdicts, strict=True):
        if each.fits:
            each = dataclasses.replace(each, advice=find_room(request, files, gpu, trials, progress))
        else:
            advice, least_bytes = find_advice(request, files, gpu, traced.memory.total_bytes, trials, progress)
            each = dataclasses.replace(each, advice=advice)
            if not advice:
                message = (
                    f"None of the known changes makes the step fit the {gpu.name}: the least total that was traced is "
                    f"{format_bytes(least_bytes)}."
                )
                notices.append(Notice(code="nothing-fits", message=message))
        fit.append(each)
    return dataclasses.replace(traced, fit=tuple(fit), notices=(*traced.notices, *notices))


def _needs_a_trace(selection: Selection, why: str) -> None:
    """Refuse to go on where the user named a GPU and nothing can be said of it: silence would read as a yes."""
    if selection.named:
        raise UnsupportedModelError(
            f"nothing says whether the step fits: {one_line(why, 300)}; drop --gpu and --gpu-memory for the counts."
        )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the cyclic garbage collector, which would walk the millions of objects that imports and modules make.

    They all stay, so there is nothing to find. The imports of torch, transformers and peft took 2.1 s instead of 3.0.
    """
    with restoring():
        call_at_end(gc.enable if gc.isenabled() else gc.disable)
        gc.disable()
        yield


def _files(request: Request, progress: Progress) -> SourceFiles | None:
    """Return what the source holds for a named model; a live object of the Python API needs no source."""
    if not isinstance(request.model, (str, os.PathLike)):
        return None
    from inspector.source.locate import locate

    name = os.fspath(request.model)
    return locate(name, revision=request.revision, offline=request.offline, progress=progress)


def _preload() -> None:
    """Import the model stage; an import error shows when the main thread imports it again."""
    with contextlib.suppress(Exception):
        importlib.import_module("inspector.model.build")


def _versions() -> dict[str, str]:
    """Return the versions that a count depends on."""
    return {
        "inspector": metadata.version("model-inspector"),
        **{name: metadata.version(name) for name in ("torch", "transformers", "peft")},
        "python": platform.python_version(),
    }
