"""The models of one inspection, built once each, and what they say: traces, recipes as they run, facts of a report.

A trace changes its model, so each has a copy. Nothing here depends on what was asked before, so that whatever a method
returns may be kept (`inspector.predict.findings`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

from inspector.errors import InspectorError
from inspector.extrapolate.held import digest_structure
from inspector.model.build import BuiltModel, Depths, build_shallow, build_whole
from inspector.model.copying import copy_model, has_gradient_hooks
from inspector.model.depth.counts import may_count_shallow
from inspector.model.depth.records import NotPeriodicError, Periods, extrapolate_record
from inspector.model.depth.skeletons import Skeletons
from inspector.model.hash_seed import find_hash_ordered_layer_types
from inspector.model.without_gradient import list_without_gradient
from inspector.predict.generation import describe_lengths
from inspector.predict.run_keys import Key, make_model_key, make_run_key, make_skeleton_key
from inspector.records.memory import CacheFacts, WithoutGradient
from inspector.records.model import TensorKind
from inspector.records.recipe import Recipe, find_prompt_len
from inspector.records.request import Request
from inspector.records.run import Lengths, RunFacts, Traced
from inspector.records.source import SourceFiles
from inspector.records.steps.ranks import DeviceMap
from inspector.records.tape import Event
from inspector.resolve import ResolvedRun, is_packed
from inspector.runtime.quiet import silence_output
from inspector.trace.meta_cache import Results
from inspector.trace.scan_loops import has_scan_loops
from inspector.workloads.base import base_model
from inspector.workloads.batch import find_longest_sequence
from inspector.workloads.registry import load_workload
from inspector.workloads.run import trace_run
from inspector.workloads.training.dependence import find_dependence
from inspector.workloads.training.state import count_state_bytes

__all__ = ["ModelTracer"]

_Record = TypeVar("_Record")


class ModelTracer:
    """Builds models of one source, whole or with few of their layers, and traces runs of them."""

    def __init__(self, files: SourceFiles | None) -> None:
        self._files = files
        self._models: dict[tuple[Key, int | None], tuple[BuiltModel, int]] = {}
        self._skeletons: dict[Key, Skeletons] = {}
        self._cards: dict[Key, list[list[Event]]] = {}
        self._results = Results()

    def keep(self, request: Request, depths: Depths) -> None:
        """Take models that somebody has built already, as nobody has used them yet."""
        missing = 0 if depths.skeletons is None else depths.skeletons.missing
        for added_periods, built in depths.models.items():
            self._models.setdefault((make_model_key(request), added_periods), (built, missing))
        if depths.skeletons is not None:
            self._skeletons.setdefault(make_skeleton_key(request), depths.skeletons)

    def resolve_recipe(self, run: ResolvedRun, *, whole: bool = False) -> Recipe:
        """Return the recipe as it runs on the model, without a trace; on the whole one where that is asked for."""
        workload = load_workload(run.workload)
        with silence_output():
            if whole:
                return self._ask_whole(run.request, lambda model: workload.resolve(model, run.recipe))
            return workload.resolve(self.build_shallow(run.request, 0)[0].model, run.recipe)

    def describe(self, run: ResolvedRun, recipe: Recipe) -> RunFacts:
        """Return what a report says of a run of the whole model, whose `recipe` is as it runs there."""
        workload, asked = load_workload(run.workload), run.request.recipe
        with silence_output():
            return self._ask_whole(run.request, lambda model: workload.describe(model, asked, recipe, run.platform))

    def _ask_whole(self, request: Request, ask: Callable[[Any], _Record]) -> _Record:
        """Return what a whole model answers, by two shallow ones where it is not there and these say as much."""
        if may_count_shallow(request) and (make_model_key(request), None) not in self._models:
            with contextlib.suppress(InspectorError, NotPeriodicError):  # what the whole model says is the one to tell
                models = [self.build_shallow(request, added_periods) for added_periods in (0, 1)]
                skeletons = self._skeletons.get(make_skeleton_key(request))
                cut = None if skeletons is None else skeletons.cut  # none where an adapter tells layers apart
                if cut is not None and models[0][1]:
                    shallow, deeper = (ask(built.model) for built, _ in models)
                    return extrapolate_record(shallow, deeper, Periods.from_cut(cut, 0), cut.missing)
        return ask(self.build_whole(request).model)

    def trace(self, run: ResolvedRun, added_periods: int | None, *, passes_alone: bool = False) -> Traced:
        """Trace a run, or the phases of it that depend on sizes, on a model of a depth.

        The model has `added_periods` periods of layers more than the shallowest one, and all where that is None.
        """
        idle, assumed, lengths = set[str](), set[str](), set[int]()
        built = self.take_model(run.request, added_periods)
        recipe, tape = self.trace_built(
            run, built, passes_alone=passes_alone, idle=idle, assumed=assumed, scan_lengths=lengths
        )
        return Traced(
            recipe=recipe,
            tape=tape,
            idle=frozenset(idle),
            assumed=frozenset(assumed),
            scan_lengths=frozenset(lengths),
        )

    def trace_built(
        self,
        run: ResolvedRun,
        built: BuiltModel,
        *,
        passes_alone: bool = False,
        states: list[Any] | None = None,
        idle: set[str] | None = None,
        assumed: set[str] | None = None,
        scan_lengths: set[int] | None = None,
    ) -> tuple[Recipe, list[Any]]:
        """Trace a run of a model that nobody has used yet.

        What trains without a gradient is added to `idle`, the codes of what was assumed to `assumed`, and to
        `scan_lengths` how many passes the loops have that the run shortens.
        """
        workload, until = load_workload(run.workload), run.workload.sized_until if passes_alone else None
        with silence_output():
            recipe = workload.resolve(built.model, run.recipe)
            if isinstance(run.launch, DeviceMap):
                return recipe, self._trace_card(run, run.launch, built, recipe, states, assumed)
            if run.launch is not None:
                from inspector.distributed.run import trace_rank  # loads FSDP and DTensor, which one card does without

                return recipe, trace_rank(
                    workload,
                    built,
                    recipe,
                    run.platform,
                    run.launch,
                    run.rank,
                    results=self._results,
                    assumed=assumed,
                    scan_passes=run.scan_passes,
                    scan_lengths=scan_lengths,
                )
            tape = trace_run(
                workload,
                built,
                recipe,
                run.platform,
                until=until,
                results=self._results,
                states=states,
                idle=None if passes_alone else idle,
                assumed=assumed,
                scan_passes=run.scan_passes,
                scan_lengths=scan_lengths,
            )
        return recipe, tape

    def _trace_card(
        self,
        run: ResolvedRun,
        launch: DeviceMap,
        built: BuiltModel,
        recipe: Recipe,
        states: list[Any] | None,
        assumed: set[str] | None,
    ) -> list[Event]:
        """Return the tape of one card of a model that lies on several, all of which one trace tells."""
        key = make_run_key(run.with_rank(0))
        if key not in self._cards or states is not None:
            from inspector.distributed.device_map import trace_cards  # as above

            bare = self.build_whole(dataclasses.replace(run.request, peft=None)).model
            self._cards[key] = trace_cards(
                load_workload(run.workload),
                built,
                bare,
                recipe,
                run.platform,
                launch,
                is_packed=is_packed(run),
                results=self._results,
                states=states,
                assumed=assumed,
            )
        return self._cards[key][run.rank]

    def has_scan_loops(self, request: Request) -> bool:
        """Tell whether layers of a model have a loop over positions that can be shortened."""
        return has_scan_loops(base_model(self.build_shallow(request, 0)[0].model))

    def count_missing_periods(self, request: Request, added_periods: int) -> int:
        """Return how many periods of layers the model of a depth lacks."""
        return self.build_shallow(request, added_periods)[1]

    def digest_structure(self, request: Request) -> str:
        """Return what is equal for models whose repeated layers consist of the same classes; of no layers, nothing."""
        model = base_model(self.build_shallow(request, 0)[0].model)
        cut = self._skeletons[make_skeleton_key(request)].cut if self.build_shallow(request, 0)[1] else None
        return "" if cut is None else digest_structure(type(model), map(type, model.get_submodule(cut.path).modules()))

    def find_longest_sequence(self, request: Request) -> int | None:
        """Return how many tokens a sequence of a model may have, None where nothing bounds them."""
        return find_longest_sequence(base_model(self.build_shallow(request, 0)[0].model))

    def find_dependence(self, run: ResolvedRun) -> str | None:
        """Return what another batch size makes of a training run, None where its sequences do not interact."""
        return find_dependence(base_model(self.build_shallow(run.request, 0)[0].model), run.recipe)

    def is_ordered_by_hash(self, request: Request) -> bool:
        """Tell whether the layers of a model come in an order that differs from process to process."""
        return bool(find_hash_ordered_layer_types(base_model(self.build_shallow(request, 0)[0].model)))

    def describe_lengths(self, run: ResolvedRun) -> Lengths:
        """Return what of the model decides how its long generations go on."""
        return describe_lengths(run, base_model(self.build_shallow(run.request, 0)[0].model).config)

    def describe_cache(self, run: ResolvedRun) -> CacheFacts | None:
        """Return what a generation keeps of its tokens, None where that is nothing.

        The whole model makes it in the last step alone, after a prompt of all tokens before.
        """
        recipe = run.request.recipe
        built = self.build_whole(run.request)
        steps = min(recipe.new_tokens, 2)
        before = recipe.new_tokens - steps
        # The decoder of an encoder-decoder does not go on from the prompt.
        follows = not base_model(built.model).config.is_encoder_decoder
        prompt_len = find_prompt_len(run.recipe) + (before if follows else 0)
        last = dataclasses.replace(recipe, prompt_len=prompt_len, new_tokens=steps, prefill_chunk_size=None)
        short = run.with_request(dataclasses.replace(run.request, recipe=last))
        states: list[Any] = []
        self.trace_built(short, self.take_model(run.request, None), states=states)
        facts: CacheFacts | None = states[0].facts
        return facts if facts is None or follows else facts.lengthen(before, recipe.batch_size)

    def list_without_gradient(
        self, request: Request, idle: AbstractSet[str], added_periods: int | None
    ) -> tuple[WithoutGradient, ...]:
        """Return the trained parameters that are `idle` in a model of a depth, those of equal layers together."""
        return list_without_gradient(base_model(self.build_whole(request).model), idle, added_periods)

    def list_row_counts(self, request: Request) -> tuple[int, ...]:
        """Return how many rows the parameters of a model have, each number once."""
        parameters = self.build_whole(request).model.parameters()
        return tuple(sorted({parameter.shape[0] if parameter.dim() else 1 for parameter in parameters}))

    def count_state_bytes(self, tensors: Mapping[TensorKind, int], run: ResolvedRun) -> int:
        """Return the bytes of an optimizer's state for so many trained parameters of each kind."""
        return count_state_bytes(tensors, run.recipe, run.platform)

    def take_model(self, request: Request, added_periods: int | None) -> BuiltModel:
        """Return an unused copy of the model of a request.

        It is `added_periods` periods of layers deeper than the shallowest one, or whole where that is None.
        """
        built = self.build_whole(request) if added_periods is None else self.build_shallow(request, added_periods)[0]
        if not has_gradient_hooks(built.model):
            return dataclasses.replace(built, model=copy_model(built.model))
        if added_periods is None:
            return build_whole(request, self._files)
        return self._build_shallow(request, added_periods)[0]

    def build_whole(self, request: Request) -> BuiltModel:
        """Return the whole model of a request, which nobody may change."""
        key = make_model_key(request), None
        if key not in self._models:
            self._models[key] = build_whole(request, self._files), 0
        return self._models[key][0]

    def build_shallow(self, request: Request, added_periods: int) -> tuple[BuiltModel, int]:
        """Return the shallow model of a request, which nobody may change, and how many periods of layers it lacks."""
        key = make_model_key(request), added_periods
        if key not in self._models:
            self._models[key] = self._build_shallow(request, added_periods)
            if not self._models[key][1]:  # no layers are left out: built anew it would be the same
                self._models.setdefault((key[0], None), self._models[key])
        return self._models[key]

    def _build_shallow(self, request: Request, added_periods: int) -> tuple[BuiltModel, int]:
        """Build a shallow model of a skeleton that other adapters and forms of the weights have, too."""
        key = make_skeleton_key(request)

        def open_skeletons(build: Callable[[], Any]) -> Skeletons:
            if key not in self._skeletons:
                self._skeletons[key] = Skeletons(build)
            return self._skeletons[key]

        return build_shallow(request, self._files, added_periods, open_skeletons)
