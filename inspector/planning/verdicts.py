"""A run -> what it takes, and whether it fits the cards that the request is about."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from inspector.errors import UnsupportedModelError, UsageError, one_line
from inspector.hardware.selection import Selection
from inspector.memory.static import count_static_bytes
from inspector.memory.textbook import list_activation_rules, list_textbook_rules
from inspector.memory.timeline import build_run_memory, count_kept_activations
from inspector.model.build import BuiltModel
from inspector.planning.advice import find_advice
from inspector.planning.headroom import find_increases
from inspector.planning.largest import find_largest, set_value
from inspector.predict import Prediction, Predictor
from inspector.records.fit import Search, Verdict
from inspector.records.memory import RunMemory, StaticBytes, Textbook, TextbookRule
from inspector.records.model import Counted
from inspector.records.notice import Notice
from inspector.resolve import ResolvedRun
from inspector.units import format_bytes
from inspector.workloads.base import NotTraceableError, RunFacts
from inspector.workloads.registry import load_workload

__all__ = ["Outcome", "find_outcome", "find_static", "search_largest"]

Progress = Callable[[str], None]

# Cards that nobody named are judged where that is quick: 20,000 events are traced in half a second on one core.
_MOST_EVENTS_FOR_A_CARD = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the prediction of a run gave: nothing but notices where it could not be traced."""

    memory: RunMemory | None = None
    fit: tuple[Verdict, ...] | None = None
    rules: tuple[TextbookRule, ...] = ()
    notices: tuple[Notice, ...] = ()


def search_largest(
    run: ResolvedRun, predictor: Predictor, quantity: str | None, progress: Progress
) -> tuple[Search | None, ResolvedRun]:
    """Search the largest value of a quantity that fits the card; return what was found, and the run with it.

    Where nothing fits, the run is that of the smallest value; without a quantity it is the run itself.
    """
    if quantity is None:
        return None, run
    search = find_largest(run, quantity, predictor, progress)
    return search, run.with_request(set_value(run.request, quantity, search.value or search.tried[0].value))


def find_static(counted: Counted, rules: Sequence[TextbookRule]) -> tuple[StaticBytes, Textbook]:
    """Return the bytes of training that need no trace, and the rules of thumb beside them with the further `rules`."""
    static = count_static_bytes(
        counted.base_dtypes,
        counted.census,
        base_buffer_bytes=counted.base_buffer_bytes,
        base_frozen_bytes=sum(counted.base_frozen_dtypes.values()),
        has_adapter=counted.adapter is not None,
    )
    textbook = list_textbook_rules(static, counted.census, counted.base_dtypes, counted.base_frozen_dtypes)
    return static, dataclasses.replace(textbook, rules=(*textbook.rules, *rules))


def find_outcome(
    run: ResolvedRun, built: BuiltModel | None, selection: Selection, predictor: Predictor, progress: Progress
) -> Outcome:
    """Predict a run on the model that was counted, or say in a notice why it cannot be traced.

    Raises UnsupportedModelError where a card was named and nothing can be said of it: silence would read as a yes.
    """
    if built is None:
        _refuse_silence(selection, "the step of a live model is not traced")
        return Outcome()
    progress(f"tracing {run.workload.summary.partition(':')[0]}")
    facts: RunFacts | None = None
    try:
        recipe = load_workload(run.workload).resolve(built.model, run.recipe)
        facts = load_workload(run.workload).describe(built.model, run.request.recipe, recipe, run.platform)
        prediction = predictor.predict(run)
    except NotTraceableError as error:
        _refuse_silence(selection, str(error))
        message = f"The {run.workload.name} step was not traced: {error}. The static bytes are what is known."
        known = () if facts is None else facts.notices
        return Outcome(notices=(*known, Notice(code="not-traced", message=message)))
    timeline = prediction.fold(prediction.limit_bytes)
    memory = build_run_memory(
        timeline,
        workload=run.workload,
        recipe=prediction.recipe,
        platform=str(run.platform),
        overhead=prediction.overhead,
        limit_bytes=prediction.limit_bytes,
        not_accounted=facts.not_accounted,
        inputs=facts.inputs,
    )
    rules: tuple[TextbookRule, ...] = ()
    if facts.shape is not None:
        rules = list_activation_rules(prediction.recipe, facts.shape, count_kept_activations(prediction.tape, timeline))
    progress("holding it against GPUs")
    verdicts, left_out = _judge(run, selection, predictor)
    notices = (*facts.notices, *_find_released(prediction), *left_out)
    if selection.named and run.request.advice:
        verdicts, advice_notices = _advise(run, selection, verdicts, predictor, progress)
        notices = (*notices, *advice_notices)
    return Outcome(memory=memory, fit=verdicts, rules=rules, notices=notices)


def _judge(
    run: ResolvedRun, selection: Selection, predictor: Predictor
) -> tuple[tuple[Verdict, ...], tuple[Notice, ...]]:
    """Return a verdict for each card, from a trace of its own kernels.

    Cards that nobody named are left out where they refuse the run, or where a trace for each kind of kernels would take
    long.
    """
    if selection.named:
        return tuple(predictor.predict(run.with_gpu(gpu)).judge() for gpu in selection.gpus), ()
    verdicts, left_out = [], []
    is_quick = predictor.count_traced_events(run) <= _MOST_EVENTS_FOR_A_CARD
    for gpu in selection.gpus:
        on_gpu = run.with_gpu(gpu)
        try:
            if is_quick or on_gpu.platform == run.platform:
                verdicts.append(predictor.predict(on_gpu).judge())
                continue
            left_out.append(gpu.name)
        except (UsageError, NotTraceableError):  # flash attention on a T4, for one
            left_out.append(gpu.name)
    if not left_out:
        return tuple(verdicts), ()
    message = (
        f"No verdict for {', '.join(left_out)}, whose kernels are others: the run is refused there, or one more trace "
        "of this model takes long; name one as `gpu`."
    )
    return tuple(verdicts), (Notice(code="gpus-left-out", message=message),)


def _find_released(prediction: Prediction) -> Iterator[Notice]:
    """Yield a notice where the run fits only because cached blocks are given back."""
    limit = prediction.limit_bytes
    if limit is not None:
        unlimited = prediction.replays.unlimited.peak_reserved_bytes
        message = (
            f"With more memory the allocator would reserve {format_bytes(unlimited)}. Here it gives cached blocks back "
            "when memory runs out, so that the step fits; the figures are those on this card, and it runs slower."
        )
        yield Notice(code="cached-blocks-released", message=message)


def _advise(
    run: ResolvedRun,
    selection: Selection,
    verdicts: tuple[Verdict, ...],
    predictor: Predictor,
    progress: Progress,
) -> tuple[tuple[Verdict, ...], list[Notice]]:
    """Add to each verdict what would make the run fit, or what could be increased where it does."""
    advised, notices = [], []
    for gpu, verdict in zip(selection.gpus, verdicts, strict=True):
        on_gpu = run.with_gpu(gpu)
        if verdict.fits:
            advised.append(dataclasses.replace(verdict, advice=find_increases(on_gpu, predictor, progress)))
            continue
        advice, least_bytes = find_advice(on_gpu, predictor, progress)
        advised.append(dataclasses.replace(verdict, advice=advice))
        if not advice:
            message = (
                f"None of the known changes makes the step fit the {gpu.name}: the least total that was traced is "
                f"{format_bytes(least_bytes)}."
            )
            notices.append(Notice(code="nothing-fits", message=message))
    return tuple(advised), notices


def _refuse_silence(selection: Selection, why: str) -> None:
    """Refuse to go on where a card was named and nothing can be said of it."""
    if selection.named:
        raise UnsupportedModelError(
            f"nothing says whether the step fits: {one_line(why, 300)}; drop `gpu` and `gpu_memory` for the counts."
        )
