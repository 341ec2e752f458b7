"""The one way to a prediction: a `ResolvedRun` -> the tape of what it does -> bytes.

The command, searches, advice, plans, comparisons, `inspect measure` and the rows of tests/evidence/truth all come
through `Predictor.predict`. A run is traced once, however often it is asked for, and so is a model built.

A trace changes its model, so each has a copy. Of a deep model two shallow ones are traced, whose tapes give that of the
deep one (`extrapolate`); the second one only where something in the tape of the first was not seen before. Models whose
layers do not repeat are traced whole. Of a run that was traced with another batch size or sequence length only the
phases of the first step that depend on them are traced again, once for all optimizers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from inspector.extrapolate import LayerExtrapolator, Sizes, TapeTemplate
from inspector.extrapolate.steps import MOST_EVENTS, PIECE
from inspector.generation import extrapolate_generation, is_long
from inspector.memory.margin import HASH_SEED, NCCL, list_uncertainties
from inspector.memory.verdict import find_overhead
from inspector.model.build import BuiltModel, build_shallow, build_whole
from inspector.model.copying import copy_model, has_gradient_hooks
from inspector.model.hash_seed import find_hash_ordered_layer_types
from inspector.model.truncate import count_missing_periods
from inspector.model.without_gradient import list_without_gradient
from inspector.prediction import Prediction, count_usable_bytes
from inspector.records.fit import Uncertainty
from inspector.records.memory import CacheFacts, WithoutGradient
from inspector.records.recipe import Recipe, find_prompt_len
from inspector.records.request import Request
from inspector.records.source import SourceFiles
from inspector.records.steps.ranks import DeviceMap
from inspector.records.tape import Event
from inspector.resolve import ResolvedRun, is_packed
from inspector.run_keys import Key, make_key_without_optimizer, make_key_without_size, make_model_key, make_run_key
from inspector.runtime.quiet import silence_output
from inspector.trace.meta_cache import Results
from inspector.workloads.base import NotTraceableError, base_model
from inspector.workloads.batch import find_longest_sequence
from inspector.workloads.registry import load_workload
from inspector.workloads.run import trace_run
from inspector.workloads.training.dependence import find_dependence

__all__ = ["Prediction", "Predictor"]

# How many depths are tried: in some models what two layers show is not yet what all do.
_DEPTHS = 2


class Predictor:
    """Predicts runs of one model that differ in recipe, adapter, form of the weights, workload or card."""

    def __init__(self, files: SourceFiles | None) -> None:
        # What is stored is compared with the model once, by the report, not with every model that is built here.
        self._files = None if files is None else dataclasses.replace(files, checkpoint=None)
        self._predictions: dict[Key, Prediction] = {}
        self._models: dict[tuple[Key, int | None], tuple[BuiltModel, int]] = {}
        # The runs that were traced to their end, by all but batch size and sequence length, with their model's depth.
        self._templates: dict[Key, list[tuple[int | None, TapeTemplate]]] = {}
        self._passes: dict[tuple[Key, int | None], tuple[Recipe, list[Event]]] = {}
        self._idle: dict[Key, tuple[int | None, set[str]]] = {}
        self._cards: dict[Key, list[list[Event]]] = {}
        self._layers = LayerExtrapolator()
        self._results = Results()

    def keep(self, request: Request, built: BuiltModel) -> None:
        """Take a whole model that somebody has built already, as nobody has used it yet."""
        self._models.setdefault((make_model_key(request), None), (built, 0))

    def copy_models(self) -> Predictor:
        """Return a predictor that has traced nothing yet, of the same models."""
        predictor = Predictor(self._files)
        predictor._models, predictor._results = self._models, self._results
        return predictor

    def knows(self, run: ResolvedRun) -> bool:
        """Tell whether a run was predicted before."""
        return make_run_key(run) in self._predictions

    def resolve_recipe(self, run: ResolvedRun) -> Recipe:
        """Return the recipe as it runs on the model, without a trace."""
        with silence_output():
            return load_workload(run.workload).resolve(self._build_shallow(run.request, 0)[0].model, run.recipe)

    def predict(self, run: ResolvedRun) -> Prediction:
        """Return the prediction of a run.

        Raises UsageError and UnsupportedModelError of the model stage, NotTraceableError where the run cannot be
        traced.
        """
        key = make_run_key(run)
        if key not in self._predictions:
            traced = self._resize(run) or self._trace_to_end(run)
            self._predictions[key] = Prediction(run, *traced, self._list_uncertainties(run))
        return self._predictions[key]

    def find_longest_sequence(self, run: ResolvedRun) -> int | None:
        """Return how many tokens a sequence of a run's model may have, None where nothing bounds them."""
        return find_longest_sequence(base_model(self._build_shallow(run.request, 0)[0].model))

    def find_dependence(self, run: ResolvedRun) -> str | None:
        """Return what another batch size makes of a training run but memory, None where its sequences do not interact.

        A batch of one that is accumulated is then not the same training. Of one sequence there is nothing to say.
        """
        if not run.workload.trains or run.recipe.batch_size == 1:
            return None
        return find_dependence(base_model(self._build_shallow(run.request, 0)[0].model), run.recipe)

    def find_most_new_tokens(self, run: ResolvedRun) -> int:
        """Return how many tokens a generation may have of which every step is worked out."""
        longest, prompt_len = self.find_longest_sequence(run), find_prompt_len(run.recipe)
        most = MOST_EVENTS // self._count_events_of_a_step(run, prompt_len)
        if longest is not None:
            most = min(most, longest - prompt_len)
        # Longer keys are cut into more parts, which a step makes more blocks for.
        last = self._count_events_of_a_step(run, prompt_len + max(most - PIECE, 0))
        return min(most, MOST_EVENTS // last)

    def _count_events_of_a_step(self, run: ResolvedRun, prompt_len: int) -> int:
        """Return how many events the last but one step of a short generation after a prompt has."""
        recipe = dataclasses.replace(run.request.recipe, prompt_len=prompt_len, new_tokens=PIECE)
        piece = run.with_request(dataclasses.replace(run.request, recipe=recipe))
        tape = self.copy_models().predict(piece).tape
        return max(sum(event.step == PIECE - 1 for event in tape), 1)

    def describe_cache(self, run: ResolvedRun) -> CacheFacts | None:
        """Return what a generation keeps of its tokens, None where that is nothing.

        The whole model makes it in the last step alone, after a prompt of all tokens before.
        """
        recipe = run.request.recipe
        built = self._build_whole(run.request)
        steps = min(recipe.new_tokens, 2)
        before = recipe.new_tokens - steps
        # The decoder of an encoder-decoder does not go on from the prompt.
        follows = not base_model(built.model).config.is_encoder_decoder
        prompt_len = find_prompt_len(run.recipe) + (before if follows else 0)
        last = dataclasses.replace(recipe, prompt_len=prompt_len, new_tokens=steps, prefill_chunk_size=None)
        short = run.with_request(dataclasses.replace(run.request, recipe=last))
        states: list[Any] = []
        self._trace(short, self._take_model(run.request, None), states=states)
        facts: CacheFacts | None = states[0].facts
        return facts if facts is None or follows else facts.lengthen(before, recipe.batch_size)

    def list_without_gradient(self, run: ResolvedRun) -> tuple[WithoutGradient, ...]:
        """Return the trained parameters that a predicted run gives no gradient, those of equal layers together."""
        added_periods, idle = self._idle.get(make_key_without_size(run), (None, set[str]()))
        base = base_model(self._build_whole(run.request).model)
        return list_without_gradient(base, idle, added_periods) if idle else ()

    def find_usable_bytes(self, run: ResolvedRun) -> int:
        """Return what the allocator has on a run's card, the margin that was asked for left out."""
        return count_usable_bytes(run)

    def find_unknown_bytes(self, run: ResolvedRun) -> int:
        """Return what a run's card may lack of that: nothing where a margin was asked for."""
        return sum(item.bytes for item in self._list_uncertainties(run))

    def find_margin_bytes(self, run: ResolvedRun) -> int:
        """Return how much of a run's card stays free where it fits for sure: what was asked for, or is not known."""
        return self.find_unknown_bytes(run) if run.margin_bytes is None else run.margin_bytes

    def _list_uncertainties(self, run: ResolvedRun) -> tuple[Uncertainty, ...]:
        """Return what a run's card may lack of its usable memory, nothing where a margin was asked for."""
        if run.gpu is None or run.margin_bytes is not None:
            return ()
        base = base_model(self._build_shallow(run.request, 0)[0].model)
        by_seed = (HASH_SEED,) if find_hash_ordered_layer_types(base) else ()
        of_ranks = () if run.launch is None or isinstance(run.launch, DeviceMap) else (NCCL,)
        return (*list_uncertainties(run.gpu, find_overhead(run.gpu)), *by_seed, *of_ranks)

    def find_known(self, run: ResolvedRun) -> Prediction | None:
        """Return the prediction of a run where nothing has to be traced for it."""
        templates = self._templates.get(make_key_without_size(run), ())
        is_known = any(
            (make_key_without_optimizer(run), added_periods) in self._passes for added_periods, _ in templates
        )
        return self.predict(run) if is_known or self.knows(run) else None

    def count_traced_events(self, run: ResolvedRun) -> int:
        """Return how many events were traced for a run that was predicted: what a trace on another card would cost.

        Of a generation that was extrapolated from short ones they are those of all its steps, which are replayed.
        """
        template = self.predict(run).template
        return len(template.traced if template.extrapolation.steps is None else template.extrapolation.steps)

    def _resize(self, run: ResolvedRun) -> tuple[Recipe, TapeTemplate, Sizes] | None:
        """Trace the sized phases alone of a run that was traced at another size, None where its events differ."""
        if run.workload.sized_until is None or run.launch is not None:
            return None
        for added_periods, template in self._templates.get(make_key_without_size(run), ()):
            try:
                recipe, passes = self._trace_passes(run, added_periods)
            except NotTraceableError:
                continue  # what the whole run says is the one to tell
            sizes = template.derive_sizes(passes)
            if sizes is not None:
                asked = run.recipe
                recipe = dataclasses.replace(recipe, optimizer=asked.optimizer, optim_args=asked.optim_args)
                return recipe, template, sizes
        return None

    def _trace_passes(self, run: ResolvedRun, added_periods: int | None) -> tuple[Recipe, list[Event]]:
        """Return the tape of the phases that depend on sizes, the same before any optimizer, on a model of a depth."""
        key = make_key_without_optimizer(run), added_periods
        if key not in self._passes:
            self._passes[key] = self._trace(run, self._take_model(run.request, added_periods), passes_alone=True)
        return self._passes[key]

    def _trace_to_end(self, run: ResolvedRun) -> tuple[Recipe, TapeTemplate, Sizes]:
        """Trace all steps, on a shallow model where that says what the whole one does."""
        recipe, added_periods, template = self._trace_long(run) or self._trace_deep(run)
        self._templates.setdefault(make_key_without_size(run), []).append((added_periods, template))
        return recipe, template, template.sizes

    def _trace_deep(self, run: ResolvedRun) -> tuple[Recipe, int | None, TapeTemplate]:
        """Return the recipe as it runs, the depth of the traced model, None for the whole one, and its run."""
        found = self._extrapolate(run)
        if found is not None:
            return found
        recipe, tape = self._trace_depth(run, None)
        return recipe, None, TapeTemplate(tape, None)

    def _trace_long(self, run: ResolvedRun) -> tuple[Recipe, int | None, TapeTemplate] | None:
        """Return the same of a long generation from short ones, None where there is none or they do not say it."""
        if not is_long(run) or run.launch is not None:
            return None
        recipe = self.resolve_recipe(run)
        base = base_model(self._build_shallow(run.request, 0)[0].model)
        template = extrapolate_generation(run, base.config, lambda piece: self._trace_deep(piece)[2])
        return None if template is None else (recipe, 0, template)

    def _extrapolate(self, run: ResolvedRun) -> tuple[Recipe, int, TapeTemplate] | None:
        """Return the recipe as it runs, the depth of a model that says what the whole one does, and its run.

        None where layers that look alike are not treated alike: one block in some is checkpointed.
        """
        if run.recipe.checkpoint_every not in (None, 1) or isinstance(run.launch, DeviceMap):
            return None
        try:
            for added_periods in range(_DEPTHS):
                missing = self._build_shallow(run.request, added_periods)[1]
                if missing <= added_periods:
                    return None
                recipe, shallow = self._trace_depth(run, added_periods)
                extrapolation = self._layers.extrapolate(shallow, missing - added_periods)
                if extrapolation is None:
                    deeper = self._trace(run, self._take_model(run.request, added_periods + 1))[1]
                    if self._layers.learn(shallow, deeper):
                        extrapolation = self._layers.extrapolate(shallow, missing - added_periods)
                if extrapolation is not None:
                    return recipe, added_periods, TapeTemplate(shallow, extrapolation)
        except NotTraceableError:
            pass  # what the whole model says is the one to tell
        return None

    def _trace_depth(self, run: ResolvedRun, added_periods: int | None) -> tuple[Recipe, list[Event]]:
        """Trace a run on a model of a depth, None for the whole one, and note what trains without a gradient."""
        idle: set[str] = set()
        self._idle[make_key_without_size(run)] = added_periods, idle
        return self._trace(run, self._take_model(run.request, added_periods), idle=idle)

    def _trace(
        self,
        run: ResolvedRun,
        built: BuiltModel,
        *,
        passes_alone: bool = False,
        states: list[Any] | None = None,
        idle: set[str] | None = None,
    ) -> tuple[Recipe, list[Event]]:
        """Trace a run of a model that nobody has used yet, or the phases of it that depend on sizes."""
        workload, until = load_workload(run.workload), run.workload.sized_until if passes_alone else None
        with silence_output():
            recipe = workload.resolve(built.model, run.recipe)
            if isinstance(run.launch, DeviceMap):
                return recipe, self._trace_card(run, run.launch, built, recipe)
            if run.launch is not None:
                from inspector.distributed.run import trace_rank  # loads FSDP and DTensor, which one card does without

                return recipe, trace_rank(
                    workload, built, recipe, run.platform, run.launch, run.rank, results=self._results
                )
            tape = trace_run(
                workload, built, recipe, run.platform, until=until, results=self._results, states=states, idle=idle
            )
        return recipe, tape

    def _trace_card(self, run: ResolvedRun, launch: DeviceMap, built: BuiltModel, recipe: Recipe) -> list[Event]:
        """Return the tape of one card of a model that lies on several, all of which one trace tells."""
        key = make_run_key(run.with_rank(0))
        if key not in self._cards:
            from inspector.distributed.device_map import trace_cards  # as above

            bare = self._build_whole(dataclasses.replace(run.request, peft=None)).model
            self._cards[key] = trace_cards(
                load_workload(run.workload),
                built,
                bare,
                recipe,
                run.platform,
                launch,
                is_packed=is_packed(run),
                results=self._results,
            )
        return self._cards[key][run.rank]

    def _take_model(self, request: Request, added_periods: int | None) -> BuiltModel:
        """Return an unused copy of the model of a request.

        It is `added_periods` periods of layers deeper than the shallowest one, or whole where that is None.
        """
        built = self._build_whole(request) if added_periods is None else self._build_shallow(request, added_periods)[0]
        if not has_gradient_hooks(built.model):
            return dataclasses.replace(built, model=copy_model(built.model))
        if added_periods is None:
            return build_whole(request, self._files)
        return build_shallow(request, self._files, added_periods)[0]

    def _build_whole(self, request: Request) -> BuiltModel:
        """Return the whole model of a request, which nobody may change."""
        key = make_model_key(request), None
        if key not in self._models:
            self._models[key] = build_whole(request, self._files), 0
        return self._models[key][0]

    def _build_shallow(self, request: Request, added_periods: int) -> tuple[BuiltModel, int]:
        """Return the shallow model of a request, which nobody may change, and how many periods of layers it lacks."""
        key = make_model_key(request), added_periods
        if key not in self._models:
            whole = self._models.get((key[0], None))
            if whole is not None and not count_missing_periods(base_model(whole[0].model)):
                self._models[key] = whole  # no layers to leave out: built anew it would be the same
            else:
                self._models[key] = build_shallow(request, self._files, added_periods)
        return self._models[key]
