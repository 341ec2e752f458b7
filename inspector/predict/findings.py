"""What the models of one inspection say: taken from the cache where it is kept, else built and traced, and kept.

The models, and torch with them, are loaded when something is not kept. Whatever is asked for here follows from the
files of the source, the request and the run alone, and from nothing that was asked before.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, TypeVar

from inspector.cache.findings import Kept
from inspector.hardware.platform import build_platform
from inspector.memory.allocator.caching import OutOfMemory
from inspector.memory.replay import Replay
from inspector.memory.timeline import Summary, Timeline
from inspector.records.memory import CacheFacts, WithoutGradient
from inspector.records.model import TensorKind
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.run import Lengths, Outline, RunFacts, Traced
from inspector.records.source import SourceFiles
from inspector.records.steps.stages import Stage
from inspector.records.tape import Event
from inspector.resolve import ResolvedRun
from inspector.runtime.versions import find_versions

if TYPE_CHECKING:
    from inspector.model.build import Depths
    from inspector.predict.tracing import ModelTracer

__all__ = ["Findings", "list_of_count"]

_Value = TypeVar("_Value")
# Of a batch: the state of an optimizer is that of the parameters.
_SIZES = ("batch_size", "seq_len")


class Findings:
    """What the models of one source say of themselves and of runs."""

    def __init__(self, files: SourceFiles | None, kept: Kept | None = None) -> None:
        # What is stored is compared with the model once, by the report, not with every model that is built here.
        self._files = None if files is None else dataclasses.replace(files, checkpoint=None)
        self._kept = kept

    @functools.cached_property
    def tracer(self) -> ModelTracer:
        """Return what builds and traces, with the libraries that it takes."""
        from inspector.predict.tracing import ModelTracer

        return ModelTracer(self._files)

    def keep(self, request: Request, depths: Depths) -> None:
        """Take models that somebody has built already, as nobody has used them yet."""
        self.tracer.keep(request, depths)

    def trace(self, run: ResolvedRun, added_periods: int | None, *, passes_alone: bool = False) -> Traced:
        """Return the trace of a run, or of its phases that depend on sizes, on a model of a depth."""
        bare, settings = _leave_out_allocator(run), run.recipe.alloc_conf
        key = (*_list_of_trace(bare), added_periods, passes_alone)
        found = self._find("trace", key, lambda: self.tracer.trace(bare, added_periods, passes_alone=passes_alone))
        return dataclasses.replace(found, recipe=dataclasses.replace(found.recipe, alloc_conf=settings))

    def find_outline(self, run: ResolvedRun, make: Callable[[], Outline]) -> Outline:
        """Return the outline of a run's prediction; else what `make` finds."""
        bare, settings = _leave_out_allocator(run), run.recipe.alloc_conf
        found = self._find("outline", _list_of_trace(bare), make)
        return dataclasses.replace(found, recipe=dataclasses.replace(found.recipe, alloc_conf=settings))

    def find_tape(self, run: ResolvedRun, make: Callable[[], Sequence[Event]]) -> Sequence[Event]:
        """Return the tape of a run on the whole model; else what `make` finds, which is kept where it is not long."""
        return self._find("tape", _list_of_trace(run), make)

    def resolve_recipe(self, run: ResolvedRun, *, whole: bool = False) -> Recipe:
        """Return the recipe as it runs on the model, without a trace; on the whole one where that is asked for."""
        bare, settings = _leave_out_allocator(run), run.recipe.alloc_conf
        request, workload, _, *ranks = _list_of_trace(bare)  # no platform has a part in it
        key = request, workload, *ranks, whole
        found = self._find("recipe", key, lambda: self.tracer.resolve_recipe(bare, whole=whole))
        return dataclasses.replace(found, alloc_conf=settings)

    def describe(self, run: ResolvedRun, recipe: Recipe) -> RunFacts:
        """Return what a report says of a run whose `recipe` is as it runs on the model."""
        bare, recipe = _leave_out_card(_leave_out_allocator(run)), dataclasses.replace(recipe, alloc_conf=None)
        key = (*_list_of_trace(bare), bare.request.recipe, recipe)
        return self._find("facts", key, lambda: self.tracer.describe(bare, recipe))

    def keep_facts(self, run: ResolvedRun) -> None:
        """Keep what a report would say of a run, where the models are there that say it."""
        if self._kept is not None and "tracer" in vars(self):
            self.describe(run, self.resolve_recipe(run, whole=True))

    def describe_cache(self, run: ResolvedRun) -> CacheFacts | None:
        """Return what a generation keeps of its tokens, None where that is nothing."""
        return self._find("kv", _list_of_trace(run), lambda: self.tracer.describe_cache(run))

    def describe_lengths(self, run: ResolvedRun) -> Lengths:
        """Return what of the model decides how its long generations go on."""
        return self._find("lengths", _list_of_trace(run), lambda: self.tracer.describe_lengths(run))

    def find_dependence(self, run: ResolvedRun) -> str | None:
        """Return what another batch size makes of a training run, None where its sequences do not interact."""
        return self._find("dependence", _list_of_trace(run), lambda: self.tracer.find_dependence(run))

    def has_scan_loops(self, request: Request) -> bool:
        """Tell whether layers of a model have a loop over positions that can be shortened."""
        return self._find("scans", _list_of_model(request), lambda: self.tracer.has_scan_loops(request))

    def count_missing_periods(self, request: Request, added_periods: int) -> int:
        """Return how many periods of layers the model of a depth lacks."""
        key = (*_list_of_model(request), added_periods)
        return self._find("depth", key, lambda: self.tracer.count_missing_periods(request, added_periods))

    def is_held(self, run: ResolvedRun, hold: Callable[[], bool]) -> bool:
        """Tell whether shallow models say what a deep one of a run's structure does: that is known, or `hold` finds it.

        Where nothing is kept nothing is held, as each process would do it anew.
        """
        if self._kept is None:
            return True
        from inspector.extrapolate.held import load_structures  # loads numpy, as whoever asks has done

        request, launch = run.request, type(run.launch).__name__
        structure = self._find("structure", _list_of_model(request), lambda: self.tracer.digest_structure(request))
        if run.launch is None and run.workload.trains and structure in load_structures(find_versions()):
            return True
        return self._find("held", (structure, run.workload.name, launch), hold)

    def find_longest_sequence(self, request: Request) -> int | None:
        """Return how many tokens a sequence of a model may have, None where nothing bounds them."""
        return self._find("longest", _list_of_model(request), lambda: self.tracer.find_longest_sequence(request))

    def is_ordered_by_hash(self, request: Request) -> bool:
        """Tell whether the layers of a model come in an order that differs from process to process."""
        return self._find("order", _list_of_model(request), lambda: self.tracer.is_ordered_by_hash(request))

    def list_row_counts(self, request: Request) -> tuple[int, ...]:
        """Return how many rows the parameters of a model have, each number once."""
        return self._find("rows", _list_of_model(request), lambda: self.tracer.list_row_counts(request))

    def list_without_gradient(
        self, request: Request, idle: AbstractSet[str], added_periods: int | None
    ) -> tuple[WithoutGradient, ...]:
        """Return the trained parameters that are `idle` in a model of a depth, those of equal layers together."""
        key = (*_list_of_model(request), frozenset(idle), added_periods)
        return self._find("idle", key, lambda: self.tracer.list_without_gradient(request, idle, added_periods))

    def count_state_bytes(self, tensors: Mapping[TensorKind, int], run: ResolvedRun) -> int:
        """Return the bytes of an optimizer's state for so many trained parameters of each kind."""
        recipe = _leave_out_allocator(run).recipe
        settings = tuple(getattr(recipe, item.name) for item in dataclasses.fields(recipe) if item.name not in _SIZES)
        run = _leave_out_card(run)
        key = (tuple(tensors.items()), settings, repr(run.platform))
        return self._find("state", key, lambda: self.tracer.count_state_bytes(tensors, run))

    def recall_replay(self, key: tuple[str, str, bool], limit_bytes: int | None, work: Callable[[], Replay]) -> Replay:
        """Return a replay under a limit, of requests under an allocator, which `key` says; else what `work` finds."""
        if self._kept is None:
            return work()

        def find() -> tuple[int, int, tuple[int, ...] | None]:
            found = work()
            failure = None if found.failure is None else dataclasses.astuple(found.failure)
            return found.peak_allocated_bytes, found.peak_reserved_bytes, failure

        allocated, reserved, failure = self._kept.find("replay", (*key, limit_bytes), find)
        names = [item.name for item in dataclasses.fields(OutOfMemory)]
        return Replay(
            peak_allocated_bytes=allocated,
            peak_reserved_bytes=reserved,
            failure=None if failure is None else OutOfMemory(**dict(zip(names, failure, strict=True))),
        )

    def summarize(
        self, run: ResolvedRun, requests: str, limit_bytes: int | None, work: Callable[[], Summary]
    ) -> Summary:
        """Return what a report says of a run under a limit, whose requests have a digest; else what `work` finds."""
        if self._kept is None:
            return work()

        def find() -> tuple[Any, ...]:
            found = work()
            timeline = [getattr(found.timeline, item.name) for item in dataclasses.fields(Timeline)]
            return timeline, found.host_bytes, found.kept_activations, found.late

        key = (*_list_of_trace(run), requests, repr(run.allocator), limit_bytes)
        values, host_bytes, kept_activations, late = self._kept.find("memory", key, find)
        fields = [item.name for item in dataclasses.fields(Timeline)]
        timeline = Timeline(**dict(zip(fields, values, strict=True)))
        peaks = None if late is None else (late[0], late[1])
        return Summary(timeline=timeline, host_bytes=host_bytes, kept_activations=kept_activations, late=peaks)

    def _find(self, kind: str, key: tuple[Any, ...], make: Callable[[], _Value]) -> _Value:
        """Return what is kept, else what is made now."""
        return make() if self._kept is None else self._kept.find(kind, key, make)


def list_of_count(request: Request) -> Request:
    """Return what counts follow from, beside the files of their source: a request without sizes and cards."""
    defaults = Recipe()
    sizes = {name: getattr(defaults, name) for name in ("batch_size", "seq_len", "gradient_accumulation", "alloc_conf")}
    recipe = dataclasses.replace(request.recipe, **sizes)
    return dataclasses.replace(_leave_out_cards(request), recipe=recipe, depth=request.depth)


def _list_of_model(request: Request) -> tuple[Any, ...]:
    """Return what a model follows from, beside the files of its source."""
    recipe = request.recipe
    changes = recipe.train_only, recipe.add_tokens, recipe.labels, recipe.frames, recipe.stage is Stage.REWARD
    return dataclasses.replace(_leave_out_cards(request), recipe=Recipe()), *changes


def _list_of_trace(run: ResolvedRun) -> tuple[Any, ...]:
    """Return what a trace follows from, beside the files of its source: neither cards nor the allocator."""
    run = _leave_out_allocator(run)
    request = dataclasses.replace(_leave_out_cards(run.request), recipe=run.recipe)
    passes = () if run.scan_passes is None else (run.scan_passes,)
    return request, run.workload.name, repr(run.platform), run.launch, run.rank, *passes


def _leave_out_allocator(run: ResolvedRun) -> ResolvedRun:
    """Return a run without the settings of its allocator, which no trace sees."""
    if run.request.recipe.alloc_conf is None:
        return run
    recipe = dataclasses.replace(run.request.recipe, alloc_conf=None)
    return run.with_request(dataclasses.replace(run.request, recipe=recipe))


def _leave_out_card(run: ResolvedRun) -> ResolvedRun:
    """Return a run on the default platform, or one whose sdpa is another one where that of its card is."""
    platform = build_platform(None, run.platform.torch_version)
    if run.platform.prefers_cudnn:
        platform = dataclasses.replace(platform, compute_capability=run.platform.compute_capability)
    return dataclasses.replace(run, platform=platform)


def _leave_out_cards(request: Request) -> Request:
    """Return a request without what a trace is held against, or what a report shows of it."""
    return dataclasses.replace(
        request,
        gpus=(),
        gpu_memory=(),
        gpu_count=1,
        sharding=None,
        device_map=None,
        tensor_parallel=None,
        expert_parallel=None,
        margin=None,
        fit=None,
        advice=True,
        count_only=False,
        context=(),
        depth=0,
        source=None,
    )
