"""What each card takes however many there are, and what would lower it.

A share of W ranks is `whole / W`, and the rest does not change: of two numbers of cards, one twice the other, whose
peaks are at the same place, a category's rest is twice what the larger number holds of it less what the smaller one
does. Rows of a shard that do not divide are padded, so that the rest is right to a few kilobytes; where padding is much
(an adapter of few rows on many ranks) it is part of what no card takes off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from inspector.errors import InspectorError, NotTraceableError
from inspector.planning.changes import Change, apply_change, format_options
from inspector.predict.predictor import Prediction, Predictor
from inspector.records.fit import Floor, Lowered
from inspector.records.memory import Peak
from inspector.records.steps.losses import LossName
from inspector.resolve import MOST_RANKS, ResolvedRun

__all__ = ["find_floor"]

# What takes less of each card and leaves what is learned as it is; a shorter sequence would be another task.
_LEVERS: tuple[Callable[[ResolvedRun], Change | None], ...] = (
    lambda run: None if run.recipe.gradient_checkpointing else {"gradient_checkpointing": True},
    lambda run: {"loss": "liger"} if run.recipe.loss is LossName.STOCK else None,
    lambda run: (
        {"batch_size": 1, "gradient_accumulation": run.recipe.batch_size * run.recipe.gradient_accumulation}
        if run.recipe.batch_size > 1
        else None
    ),
)


def find_floor(run: ResolvedRun, predictor: Predictor) -> Floor | None:
    """Return what does not shrink from a run's number of cards on; None where no number tells."""
    smaller, larger = _find_steady(run, predictor)
    if smaller is None or larger is None:
        return None
    before, after = _find_peak(smaller).breakdown, _find_peak(larger).breakdown
    rest = {category: max(2 * size - before.get(category, 0), 0) for category, size in after.items()}
    parts = {category: size for category, size in rest.items() if size}
    return Floor(
        bytes=sum(parts.values()),
        parts=dict(sorted(parts.items(), key=lambda item: -item[1])),
        phase=_find_peak(larger).phase,
        lowered_by=tuple(_list_lowered(run, predictor)),
    )


def _find_steady(run: ResolvedRun, predictor: Predictor) -> tuple[Prediction | None, Prediction | None]:
    """Return the predictions on two numbers of cards, the second twice the first, whose peaks are at one place."""
    count = max(run.cards, 2)
    smaller = predictor.predict(run.with_cards(count))
    while 2 * count <= MOST_RANKS:
        larger = predictor.predict(run.with_cards(2 * count))
        if _locate(smaller) == _locate(larger):
            return smaller, larger
        count, smaller = 2 * count, larger
    return None, None


def _locate(prediction: Prediction) -> tuple[object, ...]:
    """Return where a run peaks."""
    peak = _find_peak(prediction)
    return peak.phase, peak.step, peak.module, peak.op


def _find_peak(prediction: Prediction) -> Peak:
    """Return the peak of a run with room for all of it."""
    peak = prediction.fold().peak
    assert peak is not None, "a training run allocates"
    return peak


def _list_lowered(run: ResolvedRun, predictor: Predictor) -> Iterator[Lowered]:
    """Yield the changes that make the peak smaller on a run's number of cards, each traced alone."""
    whole = predictor.predict(run).peak_allocated_bytes
    for lever in _LEVERS:
        change = lever(run)
        if change is None:
            continue
        try:
            peak = predictor.predict(run.with_request(apply_change(run.request, change))).peak_allocated_bytes
        except (NotTraceableError, InspectorError):
            continue
        if peak < whole:
            yield Lowered(change=format_options(change), peak_allocated_bytes=peak)
