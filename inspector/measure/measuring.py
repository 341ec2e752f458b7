"""measure_run(...) -> Measurement: predict a step for the GPU at hand, refuse what will not fit, run it, compare.

The prediction and the run share everything but the tensors: how the model is prepared, the order in which it is
loaded, the batch, the optimizer, the step. A trace leaves its marks on the model it ran, so it runs on copies.

The allocator's history is recorded meanwhile (torch.cuda.memory._record_memory_history, sizes and addresses alone) and
read only where a figure differs.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import torch

from inspector.compat.torch import record_memory_history
from inspector.errors import DoesNotFitError, UnsupportedModelError, UsageError, one_line
from inspector.hardware.catalogue import find_gpu
from inspector.measure.aligning import find_differences
from inspector.measure.devices import (
    PREDICT_ALONE,
    build_platform_of_device,
    check_bitsandbytes,
    check_packages,
    describe_device,
    empty_device,
    find_cuda_device,
)
from inspector.measure.driver import read_process_bytes
from inspector.measure.ranks.group import begin_group, gather
from inspector.measure.ranks.launches import describe_launch, find_launch
from inspector.measure.ranks.place import Place
from inspector.measure.ranks.running import run_rank_steps
from inspector.measure.running import Watch, run_steps
from inspector.memory.timeline import Timeline
from inspector.memory.verdict import find_overhead
from inspector.model.build import BuiltModel, Depths, count_model
from inspector.predict.predictor import Prediction, Predictor
from inspector.records.hardware import Gpu
from inspector.records.measurement import Device, Difference, Figures, Measurement, RankFigures
from inspector.records.model import Counted
from inspector.records.recipe import Kernels, Recipe
from inspector.records.report import to_plain
from inspector.records.source import SourceFiles
from inspector.records.steps.losses import LossName
from inspector.records.steps.ranks import RankLaunch
from inspector.resolve import ResolvedRun
from inspector.runtime.quiet import silence_output
from inspector.source import catalogue
from inspector.units import format_bytes
from inspector.workloads.base import NotTraceableError
from inspector.workloads.quantized_load import is_quantized
from inspector.workloads.registry import load_workload

__all__ = ["check_machine", "collect_figures", "fold_if_it_fits", "measure_run"]

_LONGEST_HISTORY = 4_000_000
_MOST_SHOWN = 20
_LONGEST_DIFFERENCE = 12


def check_machine(recipe: Recipe, quantization: str | None = None, card: int = 0) -> None:
    """Take a card of this machine; UsageError where no step of `recipe` runs here: no CUDA, a package is missing."""
    is_stage_alone = recipe.stage is not None and recipe.loss not in (LossName.STOCK, LossName.CHUNKED)
    if recipe.lora_kernels or is_stage_alone:
        name = "lora_kernels" if recipe.lora_kernels else f"loss={recipe.loss}"
        beside = "" if recipe.lora_kernels else f" with `stage={recipe.stage}`"
        raise UsageError(
            f"`{name}`{beside} is traced as a stand-in that computes nothing, and `inspect measure` runs a real step: "
            f"{'leave it out' if recipe.lora_kernels else 'use `loss=stock`'}, or {PREDICT_ALONE}."
        )
    if recipe.kernels == Kernels.HUB and not any(map(importlib.util.find_spec, ("mamba_ssm", "causal_conv1d", "fla"))):
        raise UsageError(
            "`kernels=hub` runs by mamba-ssm, causal-conv1d or flash-linear-attention, and none of them is installed: "
            f"install what the model's layers take, or {PREDICT_ALONE}."
        )
    find_cuda_device(card)
    check_packages(recipe, quantization)


def measure_run(
    run: ResolvedRun, versions: Mapping[str, str], progress: Callable[[str], None], place: Place | None = None
) -> Measurement:
    """Predict a run for the GPU at hand and run it there, and put both side by side; with a `place` as that rank.

    Raises DoesNotFitError where the prediction says that memory will not do, or where it does not all the same;
    UnsupportedModelError where the run cannot be traced or stops on the GPU.
    """
    config = _copy_own_config(run.files)  # before a model is built: transformers writes into what is nested in it
    device = find_cuda_device()
    with empty_device(device):
        return _measure_on(run, device, versions, config, progress, place)


def _copy_own_config(files: SourceFiles | None) -> dict[str, Any] | None:
    """Return the configuration of a model that the catalogue does not have, for the record of a measurement."""
    bundled = None if files is None else catalogue.load_model(files.id)
    if files is None or (bundled is not None and bundled.config == files.config):
        return None
    return copy.deepcopy(dict(files.config))


def _measure_on(
    run: ResolvedRun,
    device: torch.device,
    versions: Mapping[str, str],
    config: Mapping[str, Any] | None,
    progress: Callable[[str], None],
    place: Place | None,
) -> Measurement:
    """Measure; only names of this function and of those that it calls keep tensors on the GPU alive."""
    gpu = describe_device(device)
    run = dataclasses.replace(run, platform=build_platform_of_device(gpu), gpu=_find_in_catalogue(gpu))
    counted, built = count_model(run.request, run.files)
    if built is None:
        raise UnsupportedModelError("a live PeftModel is not run: pass its base model and its configuration instead.")
    is_packed = is_quantized(built.model)
    if is_packed and run.workload.generates:
        raise UnsupportedModelError(
            "packed weights are loaded here for training alone: measure the generation in float."
        )
    if counted.quantization is not None and counted.quantization.traced_packed:
        raise UnsupportedModelError(
            f"the step is predicted on weights packed in {counted.quantization.method}, which are not loaded here; "
            f"{PREDICT_ALONE}."
        )
    if is_packed:
        check_bitsandbytes("the quantized base runs", PREDICT_ALONE)
    launch = None if place is None else find_launch(run, has_others=place.has_others)
    predictor = Predictor(run.files)
    predictor.keep(run.request, Depths(models={None: built}))
    progress("tracing the run")
    try:
        prediction = predictor.predict(run)
        with silence_output():
            facts = load_workload(run.workload).describe(built.model, run.recipe, prediction.recipe, run.platform)
    except NotTraceableError as error:
        message = f"there is no prediction to measure: {one_line(error, 300)}; name another model or class."
        raise UnsupportedModelError(message) from error
    timeline = fold_if_it_fits(prediction, gpu, generates=run.workload.generates)
    progress("running it on the GPU")
    # The whole model, unused so far: a prediction works on copies.
    others: list[RankFigures] = []
    how: dict[str, Any] | None = None
    if place is None or launch is None:
        figures, found = _run_step(run, built, prediction, device, timeline)
    else:
        with begin_group(place, device) as group:
            figures, found = _run_step(run, built, prediction, device, timeline, (launch, place))
            own = _describe_rank(place.rank, gpu, figures, collect_figures(timeline, run.gpu), found)
            others = [item for item in gather(own, place) if item.rank != place.rank]
        how = describe_launch(launch, place.rank, group)
    return Measurement(
        versions={**versions, "torch": torch.__version__, **_find_version("bitsandbytes")},
        gpu=gpu,
        model=to_plain(counted.model),
        config=config,
        adapter=None if counted.adapter is None else to_plain(counted.adapter.config),
        quantization=_describe_quantization(counted) if is_packed else None,
        recipe=prediction.recipe,
        measured=figures,
        predicted=collect_figures(timeline, run.gpu),
        differing=[_shorten_difference(difference) for difference in found[:_MOST_SHOWN]],
        differing_count=len(found),
        notices=[notice.message for notice in facts.notices],
        workload=None if run.workload.trains else run.workload,
        autocast_adapter_dtype=None if counted.adapter is None or run.request.autocast_adapter_dtype else False,
        launch=how,
        others=others,
    )


def _describe_rank(
    rank: int, gpu: Device, measured: Figures, predicted: Figures, found: Sequence[Difference]
) -> RankFigures:
    """Return the figures of a rank for the others, with the first differences alone."""
    return RankFigures(
        rank=rank,
        gpu=gpu,
        measured=measured,
        predicted=predicted,
        differing=[_shorten_difference(difference) for difference in found[:_MOST_SHOWN]],
        differing_count=len(found),
    )


def collect_figures(timeline: Timeline, gpu: Gpu | None) -> Figures:
    """Return the figures that a timeline predicts, with the context that is known of a GPU."""
    return Figures(phases=timeline.phases, process_bytes=timeline.peak_reserved_bytes + find_overhead(gpu).bytes)


def fold_if_it_fits(prediction: Prediction, gpu: Device, *, generates: bool = False) -> Timeline:
    """Return the timeline of a prediction under the free memory; DoesNotFitError where that is too little."""
    timeline = prediction.fold(gpu.free_bytes)
    if timeline.ran_out is None:
        return timeline
    smaller = "`prompt_len`" if generates else "`seq_len`, or `gradient_checkpointing=True`"
    raise DoesNotFitError(
        f"the step will not fit: by prediction it needs {format_bytes(prediction.fold().peak_reserved_bytes)}, and "
        f"{gpu.name} has {format_bytes(gpu.free_bytes)} free, so nothing was run; try a smaller `batch_size` or "
        f"{smaller}."
    )


def _run_step(
    run: ResolvedRun,
    built: BuiltModel,
    prediction: Prediction,
    device: torch.device,
    timeline: Timeline,
    spread: tuple[RankLaunch, Place] | None = None,
) -> tuple[Figures, list[Difference]]:
    """Run the step; return the allocator's figures and, where they are not the timeline's, all differences.

    With `spread` it is the step of a rank.
    """
    workload, recipe = load_workload(run.workload), prediction.recipe
    watch = Watch(device, timeline.phases)
    record_memory_history(max_entries=_LONGEST_HISTORY, context=None, stacks="python")
    try:
        with silence_output():
            if spread is None:
                run_steps(workload, built, recipe, device, watch)
            else:
                launch, place = spread
                run_rank_steps(workload, built, recipe, device, watch, launch, has_others=place.has_others)
        free, total = torch.cuda.mem_get_info(device)
        figures = Figures(
            phases=watch.phases,
            process_bytes=read_process_bytes(str(torch.cuda.get_device_properties(device).uuid)),
            device_used_bytes=total - free,
        )
        return figures, find_differences(watch.history, prediction.tape) if watch.history else []
    except torch.OutOfMemoryError as error:
        raise DoesNotFitError(
            f"the GPU ran out of memory although the prediction is {format_bytes(timeline.peak_reserved_bytes)}; "
            "see that no other process uses it, and please report it if none does."
        ) from error
    except (UsageError, UnsupportedModelError):
        raise
    except Exception as error:  # kernels, drivers and 400 model classes raise any class
        raise UnsupportedModelError(
            f"the step stopped on the GPU ({one_line(f'{type(error).__name__}: {error}')}); INSPECTOR_DEBUG=1 shows "
            "where, please report it."
        ) from error
    finally:
        record_memory_history(enabled=None)


def _find_version(name: str) -> dict[str, str]:
    """Return the version of a package, nothing where it is not installed."""
    try:
        return {name: metadata.version(name)}
    except metadata.PackageNotFoundError:
        return {}


def _describe_quantization(counted: Counted) -> Mapping[str, Any] | None:
    """Return how the base weights are quantized by bitsandbytes."""
    facts = counted.quantization
    if facts is None:
        return None
    found = {"method": facts.method, "source": facts.source, "double_quant": facts.double_quant}
    return {key: value for key, value in found.items() if value is not None}


def _shorten_difference(found: Difference) -> Difference:
    """Return a difference with the first of its sizes alone."""
    return Difference(
        step=found.step,
        phase=found.phase,
        module=found.module,
        op=found.op,
        measured=found.measured[:_LONGEST_DIFFERENCE],
        predicted=found.predicted[:_LONGEST_DIFFERENCE],
    )


def _find_in_catalogue(gpu: Device) -> Gpu | None:
    """Return the catalogue's entry for a device, None where it has none."""
    try:
        found = find_gpu(gpu.name)
    except UsageError:
        return None
    return found.gpu if found.gpu.compute_capability == gpu.compute_capability else None
