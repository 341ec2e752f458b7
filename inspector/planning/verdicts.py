"""A run -> what it takes, and whether it fits the cards that the request is about."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from inspector.errors import NotTraceableError, UsageError, one_line
from inspector.hardware.selection import Selection
from inspector.memory.static import count_static_bytes
from inspector.memory.textbook import list_activation_rules, list_textbook_rules
from inspector.memory.timeline import build_run_memory
from inspector.memory.verdict import judge_untraced, withdraw_no, withdraw_yes
from inspector.planning.advice import find_advice
from inspector.planning.bounds import bound_by_file, bound_by_inputs, count_packed_bytes, find_upper_bound
from inspector.planning.cards import (
    advise_sharding,
    describe_ranks,
    explain_alone,
    list_late_notices,
    list_rank_notices,
    spread_over_cards,
)
from inspector.planning.fewest_cards import add_fewest_count, find_fewest_cards
from inspector.planning.generation.contexts import list_contexts
from inspector.planning.headroom import find_increases
from inspector.planning.largest import find_largest
from inspector.planning.many_cards.rank_classes import describe_rank_classes
from inspector.planning.notices import (
    find_assumption_notices,
    find_idle_notices,
    find_missing_models,
    find_precision_notices,
    leave_out_media,
)
from inspector.planning.quantities import set_found
from inspector.predict.predictor import Prediction, Predictor
from inspector.records.fit import Fit, Quantity, Search, Verdict
from inspector.records.memory import (
    CacheFacts,
    ContextPoint,
    RunMemory,
    StaticBytes,
    StaticRecipe,
    Textbook,
    TextbookRule,
)
from inspector.records.model import Counted
from inspector.records.notice import Notice
from inspector.records.recipe import Recipe
from inspector.records.run import RunFacts
from inspector.records.steps.ranks import DeviceMap
from inspector.records.training_file import Effect
from inspector.resolve import ResolvedRun, is_packed
from inspector.training_files.changes import spell_change
from inspector.units import format_bytes

__all__ = ["Outcome", "find_outcome", "find_static", "find_textbook", "search_largest"]

Progress = Callable[[str], None]

# Cards that nobody named are judged where that is quick: 20,000 events are traced in half a second on one core.
_MOST_EVENTS_FOR_A_CARD = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the prediction of a run gave, which may be of text alone: but for notices nothing where none was traced."""

    run: ResolvedRun | None = None
    memory: RunMemory | None = None
    cache: CacheFacts | None = None
    context: tuple[ContextPoint, ...] | None = None
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
    if quantity == Quantity.GPUS:
        search = find_fewest_cards(run, predictor, progress)
        return search, run.with_cards(search.value or search.tried[-1].value)
    search = find_largest(run, quantity, predictor, progress)
    request = set_found(run.request, search)
    return dataclasses.replace(search, in_file=spell_change(run.request, request)), run.with_request(request)


def find_static(run: ResolvedRun, counted: Counted, predictor: Predictor) -> StaticBytes | None:
    """Return the bytes of training that need no trace, None where nothing trains: packed weights alone do not."""
    if not run.workload.trains or (is_packed(run) and counted.adapter is None):
        return None
    full, adapter = (
        predictor.count_state_bytes(tensors, run) for tensors in (counted.base_tensors, counted.trained_tensors)
    )
    return count_static_bytes(
        counted.base_dtypes,
        counted.census,
        optimizer=str(run.recipe.optimizer),
        full_state_bytes=full,
        adapter_state_bytes=None if counted.adapter is None else adapter,
        base_buffer_bytes=counted.base_buffer_bytes,
        base_frozen_bytes=sum(counted.base_frozen_dtypes.values()),
    )


def find_textbook(static: StaticBytes, counted: Counted, rules: Sequence[TextbookRule]) -> Textbook:
    """Return the rules of thumb beside the static bytes, with the further `rules`."""
    textbook = list_textbook_rules(static, counted.census, counted.base_dtypes, counted.base_frozen_dtypes)
    return dataclasses.replace(textbook, rules=(*textbook.rules, *rules))


def find_outcome(
    run: ResolvedRun,
    counted: Counted,
    static: StaticBytes | None,
    selection: Selection,
    predictor: Predictor,
    progress: Progress,
    *,
    is_built: bool,
) -> Outcome:
    """Predict a run on the model that was counted, or say why it cannot be traced: a named card then gets no yes.

    `is_built` says that the model was built here, and is no live one. `static` is what training keeps whatever runs,
    None where nothing trains.
    """
    outcome = _find_outcome_of_one_card(run, counted, selection, predictor, progress, is_built=is_built)
    if outcome.fit is not None and outcome.memory is not None and outcome.memory.upper_bound is not None:
        bound, least_bytes = outcome.memory.upper_bound, count_packed_bytes(counted, static)
        fit = tuple(withdraw_no(verdict, bound, least_bytes) for verdict in outcome.fit)
        outcome = dataclasses.replace(outcome, fit=fit)
    if outcome.fit is not None and (reason := find_missing_models(run)) is not None:
        fit = tuple(withdraw_yes(verdict, reason) for verdict in outcome.fit)
        outcome = dataclasses.replace(outcome, fit=fit)
    if outcome.fit is None or selection.first is None or (max(selection.counts) == 1 and run.request.sharding is None):
        return outcome
    state, sharding = _find_state(counted, static), run.request.sharding
    verdicts, is_alone = [], False
    for gpu, count, verdict in zip(selection.gpus, selection.counts, outcome.fit, strict=True):
        on_cards = run.with_gpu(gpu, count)
        ranks = describe_rank_classes(on_cards, predictor) if is_built else None
        is_alone = is_alone or ranks is None
        if ranks is None:
            verdict = spread_over_cards(verdict, count, sharding, state)
            is_one = is_built and count == 1
            verdicts.append(add_fewest_count(on_cards, verdict, predictor, progress) if is_one else verdict)
            continue
        verdict = describe_ranks(verdict, count, sharding, state, ranks)
        verdict = advise_sharding(on_cards, verdict, predictor, progress)
        verdicts.append(add_fewest_count(on_cards, verdict, predictor, progress))
    of_ranks = () if is_alone else list_rank_notices(run, counted.census.trainable_dtypes)
    notices = (*outcome.notices, explain_alone(run)) if is_alone else (*outcome.notices, *of_ranks)
    return dataclasses.replace(outcome, fit=tuple(verdicts), notices=notices)


def _find_state(counted: Counted, static: StaticBytes | None) -> StaticRecipe:
    """Return what a run keeps whatever it does: weights alone where nothing trains."""
    if static is not None:
        return static.adapter or static.full
    return StaticRecipe(
        frozen_bytes=counted.census.bytes,
        trained_bytes=0,
        gradients_bytes=0,
        optimizer_bytes=0,
        buffers_bytes=counted.census.buffer_bytes,
    )


def _find_outcome_of_one_card(
    run: ResolvedRun,
    counted: Counted,
    selection: Selection,
    predictor: Predictor,
    progress: Progress,
    *,
    is_built: bool,
) -> Outcome:
    """Predict a run, or say why it cannot be traced, with a verdict on each card alone."""
    if not is_built:
        return _give_up(run, selection, _explain_live(run.request.model))
    progress(f"tracing {run.workload.summary.partition(':')[0]}")
    facts: RunFacts | None = None
    try:
        recipe = predictor.resolve_recipe(run, whole=True)
        _refuse_longer_sequences(run.request.recipe, recipe)
        facts = predictor.describe(run, recipe)
        prediction = predictor.predict(run)
    except NotTraceableError as error:
        alone = None if facts is None else leave_out_media(run.request, facts)
        if alone is None:
            return _give_up(run, selection, str(error), () if facts is None else facts.notices)
        request, notice = alone
        outcome = _find_outcome_of_one_card(
            run.with_request(request), counted, selection, predictor, progress, is_built=is_built
        )
        return dataclasses.replace(
            outcome,
            memory=None if outcome.memory is None else dataclasses.replace(outcome.memory, lower_bound=notice.message),
            notices=(notice, *outcome.notices),
        )
    without_gradient = predictor.list_without_gradient(run) if run.workload.trains else ()
    summary = predictor.summarize(run)
    memory = build_run_memory(
        summary.timeline,
        workload=run.workload,
        recipe=prediction.recipe,
        defaults=run.list_defaults(),
        platform=str(run.platform),
        overhead=prediction.overhead,
        limit_bytes=prediction.limit_bytes,
        upper_bound=find_upper_bound(counted) or bound_by_file(run, Effect.LESS),
        lower_bound=bound_by_inputs(facts.notices) or bound_by_file(run, Effect.MORE),
        host_bytes=summary.host_bytes,
        not_accounted=facts.not_accounted,
        inputs=facts.inputs,
        ranks=describe_rank_classes(run, predictor),
        media=facts.media,
        without_gradient=without_gradient,
    )
    rules: tuple[TextbookRule, ...] = ()
    if facts.shape is not None:
        rules = list_activation_rules(prediction.recipe, facts.shape, summary.kept_activations)
    progress("holding it against GPUs")
    verdicts, left_out = _judge(run, selection, predictor)
    notices = (
        *find_idle_notices(without_gradient),
        *facts.notices,
        *find_assumption_notices(predictor.list_assumptions(run)),
        *find_precision_notices(run, counted),
        *list_late_notices(run, summary),
        *_find_released(prediction),
        *left_out,
    )
    if selection.named and run.request.advice and not isinstance(run.launch, DeviceMap):
        verdicts, advice_notices = _advise(run, selection, verdicts, predictor, progress)
        notices = (*notices, *advice_notices)
    cache = predictor.describe_cache(run) if run.workload.generates else None
    context = tuple(list_contexts(run, predictor, progress)) or None
    return Outcome(run=run, memory=memory, cache=cache, context=context, fit=verdicts, rules=rules, notices=notices)


def _give_up(run: ResolvedRun, selection: Selection, why: str, known: Sequence[Notice] = ()) -> Outcome:
    """Return what there is to say of a run that was not traced; a card that was named has a verdict that says why."""
    reason = one_line(why, 300)
    rest = " The static bytes are what is known." if run.workload.trains else ""
    message = f"The {run.workload.label} was not traced: {reason}.{rest}"
    verdicts = tuple(judge_untraced(gpu, reason, run.margin_bytes) for gpu in selection.gpus)
    return Outcome(
        fit=verdicts if selection.named else None, notices=(*known, Notice(code="not-traced", message=message))
    )


def _explain_live(model: Any) -> str:
    """Return why no run of a live object is traced."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        return "a trace would change the PeftModel that was given; pass its base model, and its configuration as `peft`"
    return f"{one_line(type(model).__name__, 60)} is not a transformers model, so its inputs are not known"


def _refuse_longer_sequences(asked: Recipe, recipe: Recipe) -> None:
    """Raise UsageError where sequences were asked for that a model has no positions for; the default length is cut."""
    if asked.seq_len is None or recipe.seq_len is None or asked.seq_len == Recipe().seq_len:
        return
    if recipe.seq_len < asked.seq_len:
        raise UsageError(
            f"`seq_len` is {asked.seq_len}, and the model has learned positions for {recipe.seq_len} tokens: a run "
            f"with longer sequences stops; use `seq_len={recipe.seq_len}`."
        )


def _judge(
    run: ResolvedRun, selection: Selection, predictor: Predictor
) -> tuple[tuple[Verdict, ...], tuple[Notice, ...]]:
    """Return a verdict for each card, from a trace of its own kernels.

    Cards that nobody named are left out where they refuse the run, or where a trace for each kind of kernels would take
    long.
    """
    if selection.named:
        cards = zip(selection.gpus, selection.counts, strict=True)
        return tuple(predictor.predict(run.with_gpu(gpu, count)).judge() for gpu, count in cards), ()
    verdicts = []
    is_quick = predictor.count_traced_events(run) <= _MOST_EVENTS_FOR_A_CARD
    for gpu in selection.gpus:
        on_gpu = run.with_gpu(gpu)
        with contextlib.suppress(UsageError, NotTraceableError):  # flash attention on a T4, for one
            if is_quick or on_gpu.platform == run.platform:
                verdicts.append(predictor.predict(on_gpu).judge())
    left_out = [gpu.name for gpu in selection.gpus if all(verdict.gpu != gpu.name for verdict in verdicts)]
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
    for gpu, count, verdict in zip(selection.gpus, selection.counts, verdicts, strict=True):
        on_gpu = run.with_gpu(gpu, count)
        if verdict.outcome is Fit.YES:
            advised.append(dataclasses.replace(verdict, advice=find_increases(on_gpu, predictor, progress)))
            continue
        advice, least_bytes = find_advice(on_gpu, predictor, progress)
        advised.append(dataclasses.replace(verdict, advice=advice))
        if not advice:
            kept = ", with what is not known of it left free" if verdict.uncertainty else ""
            message = (
                f"None of the known changes makes the step fit the {gpu.name}{kept}: the least total that was traced "
                f"is {format_bytes(least_bytes)}."
            )
            notices.append(Notice(code="nothing-fits", message=message))
    return tuple(advised), notices
