"""What would make a run fit: the rungs of `planning.ladder` one after another, each traced, until one fits for sure.

`inspect plan` lists the same rungs and recommends by the same rule. Where no rung fits at the sizes that were asked
for, the ladder is gone through once more with sequences of half the length; and with half the batch where that is not
the same loss, which is then said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from inspector.errors import InspectorError, NotTraceableError
from inspector.planning.changes import Change, apply_change, format_change, format_options
from inspector.planning.ladder import Group, find_own_method, judge_candidate, list_groups
from inspector.predict.generation import is_long
from inspector.predict.predictor import Prediction, Predictor
from inspector.predict.run_keys import Key, make_key_without_optimizer
from inspector.records.fit import Advice, Fit, Method, Purpose, Verdict, find_recommended
from inspector.records.recipe import find_prompt_len
from inspector.records.request import Request
from inspector.records.tape import Category, Event, EventKind, Phase
from inspector.resolve import ResolvedRun
from inspector.training_files.changes import spell_change

__all__ = ["find_advice", "list_ways"]

Progress = Callable[[str], None]


def list_ways(run: ResolvedRun, *, accumulates: bool) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """Return the groups that are advised for a run, its own first, and those where none of them has a rung that fits.

    What a model is trained whole for may be had with an adapter, and what an adapter is trained for on packed weights;
    the other way round only as a last resort: preparing packed weights makes whatever is not packed float32, and
    experts, which transformers does not convert, are then larger than before.
    """
    groups = list_groups(run, accumulates=accumulates)
    own = find_own_method(run)
    if own is None or not run.workload.trains:
        return groups, ()
    order = tuple(Method)
    later = tuple(item for item in groups if item.method and order.index(item.method) >= order.index(own))
    rest = own is Method.QUANTIZED_ADAPTER and run.request.quantization is not None
    return later, tuple(item for item in groups if rest and item.method is Method.ADAPTER)


def find_advice(run: ResolvedRun, predictor: Predictor, progress: Progress) -> tuple[tuple[Advice, ...], int]:
    """Return changes with which a run fits its card, and the least total that any trial came to, in bytes.

    The first that fits for sure is what a plan of the same run recommends; those after it are of other ways to train.
    """
    search = _Search(run, predictor, progress)
    dependence = predictor.find_dependence(run)
    ways, last = list_ways(run, accumulates=dependence is None)
    found = list(search.find_in(ways))
    if not any(not item.is_tight for item in found):
        found += search.find_in(last)
    if not any(not item.is_tight for item in found):
        found += search.find_smaller(dependence)
    # What costs nothing is said first, also where it is no more than tight.
    found.sort(key=lambda item: not item.is_tight)
    return tuple(found), search.least_bytes


class _Tried(NamedTuple):
    """What was changed for a trial, growing segments included, and what it came to: of long tapes no more is kept."""

    change: Change
    request: Request
    verdict: Verdict
    growing: Change | None
    total_bytes: int

    @property
    def is_tight(self) -> bool:
        """Tell whether it fits with less than the margin left free."""
        return self.verdict.outcome is Fit.TIGHT


class _Search:
    """Goes through groups of rungs, and notes the least total on the way."""

    def __init__(self, run: ResolvedRun, predictor: Predictor, progress: Progress) -> None:
        self._run, self._predictor, self._progress = run, predictor, progress
        asked = predictor.predict(run)
        verdict = asked.judge()
        self._is_tight, self._usable_bytes = verdict.outcome is Fit.TIGHT, verdict.usable_bytes
        self._trials = 0
        # What is loaded where nothing trains, the same for all groups of a method.
        self._weights: dict[tuple[Method | None, str], int] = {}
        # What the passes of a run take at least, the same for all optimizers.
        self._floors: dict[Key, int] = {}
        self.least_bytes = asked.total_bytes

    def find_in(self, groups: Iterable[Group], base: Change | None = None, but: str | None = None) -> Iterator[Advice]:
        """Yield the recommended rung of each group with a `base` of changes, and the one that costs nothing."""
        for group in groups:
            tried: list[_Tried | None] = []
            chosen = find_recommended(self._judge(group, base or {}, tried))
            best = None if chosen is None else tried[chosen]
            if best is None:
                continue
            free = next((item for item in tried if item is not None and self._costs_nothing(item)), None)
            if free is not None and free is not best:
                yield self._advise(free, but)
            if not (best.is_tight and self._is_tight):  # what is tight already gains nothing
                yield self._advise(best, but)

    def find_smaller(self, dependence: str | None) -> Iterator[Advice]:
        """Yield what fits with sequences of half the length, or with half of a batch whose rows depend on each other.

        What depends on them, as `dependence` says it, is then another.
        """
        recipe = self._run.recipe
        sizes: list[tuple[Change, str | None]] = []
        if recipe.seq_len is not None and recipe.seq_len > 1 and "seq_len" in self._run.workload.recipe_fields:
            sizes.append(({"seq_len": recipe.seq_len // 2}, None))
        if self._run.workload.generates and find_prompt_len(recipe) > 1:
            sizes.append(({"prompt_len": find_prompt_len(recipe) // 2}, None))
        if dependence is not None and recipe.batch_size > 1:
            sizes.append(({"batch_size": recipe.batch_size // 2}, dependence))
        for base, but in sizes:
            run = self._run.with_request(apply_change(self._run.request, base))
            ways, last = list_ways(run, accumulates=dependence is None)
            found = (item for item in self.find_in((*ways, *last), base, but) if not item.is_tight)
            yield from (item for item in (next(found, None),) if item is not None)

    def _judge(self, group: Group, base: Change, tried: list[_Tried | None]) -> Iterator[Fit | None]:
        """Yield what becomes of the rungs of a group and note them in `tried`, untraced where they cannot fit."""
        lasting: dict[str, int] = {}  # by the dtype of the weights
        for candidate in group.rungs:
            change = {**base, **candidate.change}
            run = self._run.with_request(apply_change(self._run.request, change))
            passes = make_key_without_optimizer(run)
            loaded = self._weights.get((group.method, run.request.dtype), 0)
            if max(lasting.get(run.request.dtype, 0), loaded, self._floors.get(passes, 0)) > self._usable_bytes:
                tried.append(None)
                yield Fit.NO
                continue
            self._trials += not self._predictor.knows(run)
            self._progress(f"what would make it fit, trace {self._trials}: {format_options(change)}")
            try:
                # The tapes of long generations are too long to be kept beside each other.
                own = self._predictor.copy_models() if is_long(run) else self._predictor
                judged = judge_candidate(run, own)
            except (NotTraceableError, InspectorError):  # flash attention in float32, for one
                tried.append(None)
                yield None
                continue
            total_bytes = judged.prediction.total_bytes
            whole = {**change, **(judged.growing or {})}
            tried.append(_Tried(whole, judged.run.request, judged.verdict, judged.growing, total_bytes))
            self.least_bytes = min(self.least_bytes, total_bytes)
            yield judged.verdict.outcome
            if run.workload.trains:
                lasting_bytes, self._floors[passes] = _find_floors(judged.prediction, group.method)
                lasting.setdefault(run.request.dtype, lasting_bytes)
            elif (group.method, run.request.dtype) not in self._weights:
                self._weights[group.method, run.request.dtype] = _find_loaded(judged.prediction)

    def _costs_nothing(self, tried: _Tried) -> bool:
        """Tell whether this is the run as it was asked for, which fits tightly with growing segments."""
        growing = tried.growing
        is_asked = growing is not None and apply_change(self._run.request, growing) == tried.request
        return is_asked and tried.is_tight

    def _advise(self, tried: _Tried, but: str | None) -> Advice:
        """Return changes that make the run fit, as options and as fields of the run's training file."""
        return Advice(
            purpose=Purpose.FIT,
            change=format_change(self._run.request, tried.change),
            in_file=spell_change(self._run.request, tried.request),
            total_bytes=tried.total_bytes,
            is_tight=tried.is_tight,
            but=but,
        )


def _find_floors(prediction: Prediction, method: Method | None) -> tuple[int, int]:
    """Return what rungs of one dtype have in memory as the first update begins, and what all optimizers have before.

    The first are the weights of the base and, where they are trained, their gradients; the second the most that is
    alive until then, before any state of an optimizer.
    """
    lasting = {Category.WEIGHTS, Category.GRADIENTS} if method is Method.FULL else {Category.WEIGHTS}
    alive: dict[int, Event] = {}
    alive_bytes = most_bytes = 0
    for event in prediction.tape:
        if event.phase is Phase.OPTIMIZER:
            return sum(item.bytes for item in alive.values() if item.category in lasting), most_bytes
        if event.kind is EventKind.ALLOCATE:
            alive[event.block] = event
            alive_bytes += event.bytes
            most_bytes = max(most_bytes, alive_bytes)
        elif event.kind is EventKind.FREE:
            alive_bytes -= alive.pop(event.block).bytes
    return 0, 0


def _find_loaded(prediction: Prediction) -> int:
    """Return the bytes of the weights that are alive when loading ends."""
    weights: dict[int, int] = {}
    for event in prediction.tape:
        if event.phase is not Phase.LOAD:
            break
        if event.kind is EventKind.ALLOCATE and event.category is Category.WEIGHTS:
            weights[event.block] = event.bytes
        elif event.kind is EventKind.FREE:
            weights.pop(event.block, None)
    return sum(weights.values())
