"""The one way to a prediction: a `ResolvedRun` -> the tape of what it does -> bytes.

The command, searches, advice, plans, comparisons, `inspect measure` and the rows of tests/evidence/truth all come
through `Predictor.predict`. A run is traced once, however often it is asked for, and so is a model built.

Models are built and traced by `Findings`, and torch is loaded there, where something is not kept. Of a deep model two
shallow ones are traced, whose tapes give that of the deep one (`extrapolate`); the second one only where something in
the tape of the first was not seen before. Models whose layers do not repeat are traced whole. Of a run that was traced
with another batch size or sequence length only the phases of the first step that depend on them are traced again, once
for all optimizers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from inspector.cache.findings import Kept
from inspector.errors import NotTraceableError
from inspector.memory.replay import Replays
from inspector.memory.timeline import Summary
from inspector.predict.findings import Findings
from inspector.predict.generation import extrapolate_generation, find_most_new_tokens, is_long
from inspector.predict.other_sizes import OtherSizes
from inspector.predict.prediction import Prediction, count_usable_bytes, count_work, list_unknown
from inspector.predict.run_keys import Key, make_key_without_size, make_run_key, make_trace_key
from inspector.predict.scans import Scans
from inspector.records.assumptions import LAYERS_DIFFER
from inspector.records.fit import Uncertainty
from inspector.records.memory import CacheFacts, WithoutGradient
from inspector.records.model import TensorKind
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.run import Outline, RunFacts, Traced
from inspector.records.source import SourceFiles
from inspector.records.steps.ranks import Ddp, DeviceMap
from inspector.records.tape import Event
from inspector.resolve import ResolvedRun

if TYPE_CHECKING:
    from inspector.extrapolate import LayerExtrapolator, Sizes, TapeTemplate
    from inspector.model.build import Depths

__all__ = ["Prediction", "Predictor"]

# How many depths are tried: in some models what two layers show is not yet what all do.
_DEPTHS = 2


class Predictor:
    """Predicts runs of one model that differ in recipe, adapter, form of the weights, workload or card."""

    def __init__(
        self, files: SourceFiles | None, kept: Kept | None = None, *, findings: Findings | None = None
    ) -> None:
        self.findings = findings or Findings(files, kept)
        self._predictions: dict[Key, Prediction] = {}
        self._outlines: dict[Key, Outline] = {}
        # The runs that were traced to their end, by all but batch size and sequence length, with their model's depth.
        self._templates: dict[Key, list[tuple[int | None, TapeTemplate]]] = {}
        self._sizes: dict[TapeTemplate, tuple[int, int | None]] = {}  # of the batches of those
        self._other_sizes = OtherSizes(lambda *run, **how: self.findings.trace(*run, **how))
        self._idle: dict[Key, tuple[int | None, AbstractSet[str]]] = {}
        self._assumed: dict[Key, AbstractSet[str]] = {}
        self._differing: set[Key] = set()
        self._scans = Scans()
        self._replays: dict[tuple[str, str, bool], Replays] = {}
        # The runs whose outline was kept, in the order in which they were asked for, until their traces are.
        self._recalled: list[ResolvedRun] = []
        self._traced: dict[Key, tuple[Recipe, TapeTemplate, Sizes]] = {}

    @functools.cached_property
    def _layers(self) -> LayerExtrapolator:
        """Return what knows what layers add to tapes."""
        from inspector.extrapolate import LayerExtrapolator  # loads numpy, which what is kept does without

        return LayerExtrapolator()

    def keep(self, request: Request, depths: Depths) -> None:
        """Take models that somebody has built already, as nobody has used them yet."""
        self.findings.keep(request, depths)

    def copy_models(self) -> Predictor:
        """Return a predictor that has traced nothing yet, of the same models."""
        predictor = Predictor(None, findings=self.findings)
        predictor._other_sizes = self._other_sizes
        return predictor

    def knows(self, run: ResolvedRun) -> bool:
        """Tell whether a run was predicted before."""
        return make_run_key(run) in self._predictions

    def resolve_recipe(self, run: ResolvedRun, *, whole: bool = False) -> Recipe:
        """Return the recipe as it runs on the model, without a trace; on the whole one where that is asked for."""
        return self.findings.resolve_recipe(run, whole=whole)

    def describe(self, run: ResolvedRun, recipe: Recipe) -> RunFacts:
        """Return what a report says of a run whose `recipe` is as it runs on the model."""
        return self.findings.describe(run, recipe)

    def count_state_bytes(self, tensors: Mapping[TensorKind, int], run: ResolvedRun) -> int:
        """Return the bytes of an optimizer's state for so many trained parameters of each kind."""
        return self.findings.count_state_bytes(tensors, run)

    def predict(self, run: ResolvedRun) -> Prediction:
        """Return the prediction of a run.

        Raises UsageError and UnsupportedModelError of the model stage, NotTraceableError where the run cannot be
        traced.
        """
        key = make_run_key(run)
        if key not in self._predictions:
            self._predictions[key] = self._predict(run, key)
        return self._predictions[key]

    def _predict(self, run: ResolvedRun, key: Key) -> Prediction:
        """Return the prediction of a run by its outline: that which is kept, or that of its trace."""

        def trace() -> Outline:
            self._trace_recalled()
            recipe, template, sizes = self._trace_once(run)
            added_periods, idle = self._idle.get(make_key_without_size(run), (None, frozenset()))
            return Outline(
                recipe=recipe,
                requests=template.digest_requests(sizes),
                traced_events=count_work(template),
                added_periods=added_periods,
                idle=idle,
                assumed=self.list_assumptions(run),
                resized_from=self._sizes.get(template),
            )

        outline = self.findings.find_outline(run, trace)
        is_recalled = make_trace_key(run) not in self._traced
        if is_recalled:
            self._recalled += [run] if outline.resized_from is None else [run.with_sizes(*outline.resized_from), run]
            self._idle[make_key_without_size(run)] = outline.added_periods, outline.idle
            self._assumed[make_key_without_size(run)] = outline.assumed
        self._outlines[key] = outline
        prediction = Prediction(
            run,
            outline.recipe,
            lambda: self._find_traced(run),
            self._list_uncertainties(run),
            find_tape=functools.partial(self.findings.find_tape, run),
            is_recalled=is_recalled,
        )
        self._share_replays(prediction, outline.requests)
        return prediction

    def _find_traced(self, run: ResolvedRun) -> tuple[TapeTemplate, Sizes]:
        """Return what was traced for a prediction, now where it was recalled."""
        if make_trace_key(run) not in self._traced:
            self._trace_recalled()
        return self._traced[make_trace_key(run)][1:]

    def _trace_once(self, run: ResolvedRun) -> tuple[Recipe, TapeTemplate, Sizes]:
        """Trace a run, or return what was traced with other settings of the allocator or on a card of its kernels."""
        key = make_trace_key(run)
        if key not in self._traced:
            self._traced[key] = self._resize(run) or self._trace_to_end(run)
            return self._traced[key]
        recipe, template, sizes = self._traced[key]
        for added_periods, known in self._list_resized(run):
            if known is template:
                self._keep_passes(run, recipe, added_periods, template)
        return dataclasses.replace(recipe, alloc_conf=run.recipe.alloc_conf), template, sizes

    def _trace_recalled(self) -> None:
        """Do what was left out where outlines were kept: what is known by now is then the same as without them."""
        while self._recalled:
            self._trace_once(self._recalled.pop(0))

    def summarize(self, run: ResolvedRun) -> Summary:
        """Return what a report says of a predicted run on its card."""
        prediction = self.predict(run)
        prediction.watch_replay()
        requests = self._outlines[make_run_key(run)].requests
        return self.findings.summarize(run, requests, prediction.limit_bytes, prediction.summarize)

    def _share_replays(self, prediction: Prediction, requests: str) -> None:
        """Give a prediction the replays of another one that makes the same requests, as on most cards."""
        run = prediction.run
        key = requests, repr(run.allocator), run.platform.takes_newest_segment
        if key not in self._replays:
            self._replays[key] = Replays(
                prediction.make_requests,
                run.allocator,
                descending_addresses=run.platform.takes_newest_segment,
                recall=functools.partial(self.findings.recall_replay, key),
            )
        prediction.replays = self._replays[key]

    def list_row_counts(self, run: ResolvedRun) -> tuple[int, ...]:
        """Return how many rows the parameters of a run's model have, each number once."""
        return self.findings.list_row_counts(run.request)

    def find_longest_sequence(self, run: ResolvedRun) -> int | None:
        """Return how many tokens a sequence of a run's model may have, None where nothing bounds them."""
        return self.findings.find_longest_sequence(run.request)

    def find_dependence(self, run: ResolvedRun) -> str | None:
        """Return what another batch size makes of a training run but memory, None where its sequences do not interact.

        A batch of one that is accumulated is then not the same training. Of one sequence there is nothing to say.
        """
        if not run.workload.trains or run.recipe.batch_size == 1:
            return None
        return self.findings.find_dependence(run)

    def find_most_new_tokens(self, run: ResolvedRun) -> int:
        """Return how many tokens a generation may have of which every step is worked out."""
        return find_most_new_tokens(
            run, self.find_longest_sequence(run), lambda piece: self.copy_models().predict(piece).tape
        )

    def describe_cache(self, run: ResolvedRun) -> CacheFacts | None:
        """Return what a generation keeps of its tokens, None where that is nothing."""
        return self.findings.describe_cache(run)

    def list_without_gradient(self, run: ResolvedRun) -> tuple[WithoutGradient, ...]:
        """Return the trained parameters that a predicted run gives no gradient, those of equal layers together."""
        added_periods, idle = self._idle.get(make_key_without_size(run), (None, frozenset[str]()))
        return self.findings.list_without_gradient(run.request, idle, added_periods) if idle else ()

    def list_assumptions(self, run: ResolvedRun) -> AbstractSet[str]:
        """Return the codes of what the trace of a predicted run assumed of floating-point numbers."""
        return self._assumed.get(make_key_without_size(run), frozenset())

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
        return list_unknown(run, self.findings.is_ordered_by_hash)

    def find_known(self, run: ResolvedRun) -> Prediction | None:
        """Return the prediction of a run where nothing has to be traced for it."""
        if not self.knows(run):
            self._trace_recalled()
        templates = self._templates.get(make_key_without_size(run), ())
        is_known = any(self._other_sizes.knows_passes(run, added_periods) for added_periods, _ in templates)
        return self.predict(run) if is_known or self.knows(run) else None

    def count_traced_events(self, run: ResolvedRun) -> int:
        """Return how many events were traced for a run that was predicted: what a trace on another card would cost.

        Of a generation that was extrapolated from short ones they are those of all its steps, which are replayed.
        """
        self.predict(run)
        return self._outlines[make_run_key(run)].traced_events

    def _resize(self, run: ResolvedRun) -> tuple[Recipe, TapeTemplate, Sizes] | None:
        """Trace the sized phases alone of a run that was traced at another size, None where its events differ."""
        for added_periods, template in self._list_resized(run):
            # What copies for a batch is a view of one sequence: then the passes would be traced in vain.
            is_like = (run.recipe.batch_size == 1) == (self._sizes[template][0] == 1)
            if not (is_like or self._other_sizes.knows_passes(run, added_periods)):
                continue
            try:
                passes = self._other_sizes.trace_passes(run, added_periods)
            except NotTraceableError:
                continue  # what the whole run says is the one to tell
            self._scans.note(run, passes)
            if (sizes := template.derive_sizes(passes.tape)) is not None:
                return passes.recipe, template, sizes
        return None

    def _list_resized(self, run: ResolvedRun) -> Sequence[tuple[int | None, TapeTemplate]]:
        """Return the runs that differ in size alone and were traced to their end, where those of one say others."""
        return self._templates.get(make_key_without_size(run), ()) if self._is_resized(run) else ()

    def _is_resized(self, run: ResolvedRun) -> bool:
        """Tell whether what a run does at one size says what it does at others; of a scan what it follows from does."""
        if run.workload.sized_until is None or run.launch is not None or not run.request.extrapolate:
            return False
        return not self._scans.shortens(run, self.findings.has_scan_loops)

    def _trace_to_end(self, run: ResolvedRun) -> tuple[Recipe, TapeTemplate, Sizes]:
        """Trace all steps, on a shallow model where that says what the whole one does."""
        scanned = self._trace_scans(run)
        if scanned is not None:  # its pieces are what says other sizes
            return *scanned, scanned[1].sizes
        recipe, added_periods, template = self._trace_long(run) or self._trace_deep(run)
        self._templates.setdefault(make_key_without_size(run), []).append((added_periods, template))
        self._sizes[template] = run.recipe.batch_size, run.recipe.seq_len
        self._keep_passes(run, recipe, added_periods, template)
        return recipe, template, template.sizes

    def _keep_passes(self, run: ResolvedRun, recipe: Recipe, added_periods: int | None, template: TapeTemplate) -> None:
        """Keep the passes of a run that was traced to its end: those that another optimizer would be traced for."""
        if self._list_resized(run):
            passes = template.traced[: template.first_passes]
            traced = Traced(recipe=recipe, tape=passes, idle=frozenset(), assumed=self.list_assumptions(run))
            self._other_sizes.keep_passes(run, added_periods, traced)

    def _trace_deep(self, run: ResolvedRun) -> tuple[Recipe, int | None, TapeTemplate]:
        """Return the recipe as it runs, the depth of the traced model, None for the whole one, and its run."""
        found = self._extrapolate(run) if run.request.extrapolate else None
        if found is not None:
            return found
        from inspector.extrapolate import TapeTemplate  # as above

        recipe, tape = self._trace_depth(run, None)
        return recipe, None, TapeTemplate(tape, None)

    def _trace_long(self, run: ResolvedRun) -> tuple[Recipe, int | None, TapeTemplate] | None:
        """Return the same of a long generation from short ones, None where there is none or they do not say it."""
        if not is_long(run) or run.launch is not None:
            return None
        recipe = self.resolve_recipe(run)
        lengths = self.findings.describe_lengths(run)
        template = extrapolate_generation(run, lengths, lambda piece: self._trace_piece(run, piece))
        return None if template is None else (recipe, 0, template)

    def _trace_piece(self, run: ResolvedRun, piece: ResolvedRun) -> TapeTemplate:
        """Return the run of a short generation, whose assumptions are those of the long one too."""
        template = (self._trace_scans(piece) or self._trace_deep(piece))[-1]
        self._assumed[make_key_without_size(run)] = self.list_assumptions(run) | self.list_assumptions(piece)
        return template

    def _trace_scans(self, run: ResolvedRun) -> tuple[Recipe, TapeTemplate] | None:
        """Return recipe and run where layers scan, from few passes of their loops; None where these do not say it."""
        found = self._scans.extrapolate(run, self.findings.has_scan_loops, self._trace_once)
        if found is None:
            return None
        key, traced = make_key_without_size(run), make_key_without_size(found[1])
        self._idle[key], self._assumed[key] = self._idle[traced], self._assumed[traced]
        return found[0], found[2]

    def _extrapolate(self, run: ResolvedRun) -> tuple[Recipe, int, TapeTemplate] | None:
        """Return the recipe as it runs, the depth of a model that says what the whole one does, and its run.

        None where layers that look alike are not treated alike: one block in some is checkpointed, or layers of a small
        model share the buckets of DDP.
        """
        if run.recipe.checkpoint_every not in (None, 1) or isinstance(run.launch, DeviceMap):
            return None
        from inspector.extrapolate.buckets import widens_buckets  # as above
        from inspector.extrapolate.held import extrapolate_depth
        from inspector.extrapolate.layers import TooManyEventsError

        try:
            for added_periods in range(_DEPTHS):
                missing = self.findings.count_missing_periods(run.request, added_periods)
                if missing <= added_periods:
                    return None
                recipe, shallow = self._trace_depth(run, added_periods)
                deepen = functools.partial(self._trace_deeper, run, added_periods)
                is_held = functools.partial(self._is_held, run)
                template = extrapolate_depth(self._layers, shallow, missing - added_periods, deepen, is_held)
                if template is not None:
                    is_ddp = isinstance(run.launch, Ddp)
                    if is_ddp and widens_buckets(shallow, template.make_tape(template.sizes)):
                        return None
                    return recipe, added_periods, template
        except NotTraceableError:
            pass  # what the whole model says is the one to tell
        except TooManyEventsError as error:
            raise NotTraceableError(str(error)) from error
        return None

    def _is_held(self, run: ResolvedRun, hold: Callable[[], bool]) -> bool:
        """Tell whether shallow models say enough of a run's deep one, and note where they were found not to."""
        held = self.findings.is_held(run, hold)
        if not held:
            self._differing.add(make_key_without_size(run))
        return held

    def _trace_deeper(self, run: ResolvedRun, added_periods: int, more: int) -> Sequence[Event]:
        """Return the tape of a run on a model that is deeper than one of a depth, to be laid beside that one's."""
        return self._trace_on(run, added_periods + more).tape

    def _trace_on(self, run: ResolvedRun, added_periods: int | None) -> Traced:
        """Return the trace of a run on a model of a depth, as far as another size does not say it."""
        return (self._other_sizes if self._is_resized(run) else self.findings).trace(run, added_periods)

    def _trace_depth(self, run: ResolvedRun, added_periods: int | None) -> tuple[Recipe, Sequence[Event]]:
        """Trace a run on a model of a depth, None for the whole one, and note what trains without a gradient."""
        # Whatever the trace ends in, what an earlier one of this run noted is not its own.
        self._idle[make_key_without_size(run)] = added_periods, frozenset()
        traced = self._trace_on(run, added_periods)
        self._idle[make_key_without_size(run)] = added_periods, traced.idle
        differs = {LAYERS_DIFFER} if make_key_without_size(run) in self._differing else frozenset[str]()
        self._assumed[make_key_without_size(run)] = traced.assumed | differs
        self._scans.note(run, traced)
        return traced.recipe, traced.tape
