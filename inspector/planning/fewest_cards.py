"""The least number of cards that a sharded run fits on, each trial a trace of the rank that takes most.

Shards shrink with the number of ranks; logits, the units that are gathered at a time and what stays unsharded do not.
So the number doubles until a rank fits, and what lies below is halved; where doubling takes off less than a hundredth,
more cards do not help.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from inspector.errors import InspectorError, NotTraceableError, UnsupportedModelError, UsageError, one_line
from inspector.planning.largest import require_gpu
from inspector.predict.predictor import Prediction, Predictor
from inspector.records.fit import Fit, Quantity, Search, Tried, Verdict
from inspector.records.steps.ranks import Fsdp1, Fsdp2, Zero
from inspector.resolve import ResolvedRun

__all__ = ["MOST_CARDS", "add_fewest_count", "find_fewest_cards"]

Progress = Callable[[str], None]

MOST_CARDS = 1024


def find_fewest_cards(run: ResolvedRun, predictor: Predictor, progress: Progress) -> Search:
    """Return the least number of cards of a run's kind that it fits on.

    It was traced, and that one less does not fit was traced, too. Raises UsageError where ranks are not traced.
    """
    if not isinstance(run.with_cards(2).launch, (Fsdp1, Fsdp2, Zero)):
        raise UsageError(
            "`fit` gpus searches how many cards a training run is sharded over by FSDP: add "
            "`sharding=fsdp`, or drop `fit`."
        )
    search = _Search(run, predictor, progress)
    low, high = search.find(1)
    return Search(
        quantity=Quantity.GPUS.value,
        gpu=require_gpu(run).name,
        value=high or None,
        fails=low or None,
        most=MOST_CARDS,
        margin_bytes=predictor.find_margin_bytes(run.with_cards(2)),
        traces=len(search.tried),
        tried=tuple(search.describe(count) for count in sorted(search.tried)),
    )


def add_fewest_count(run: ResolvedRun, verdict: Verdict, predictor: Predictor, progress: Progress) -> Verdict:
    """Return the verdict on a rank of a sharded run, or on one card of it, with the least number of cards it fits on.

    It is looked for from the number that holds the state, and left out where more cards do not help, or where it was
    searched already.
    """
    cards, launch = verdict.cards, run.launch if run.cards > 1 else run.with_cards(2).launch
    is_searched = isinstance(launch, (Fsdp1, Fsdp2, Zero)) and run.request.advice and run.request.fit is None
    if not is_searched or cards is None or getattr(launch, "replicas", 1) > 1:
        return verdict
    try:
        known = run.cards if verdict.outcome is Fit.YES else None
        _, fewest = _Search(run, predictor, progress).find(cards.least_count or run.cards, known)
    except InspectorError:
        return verdict
    return dataclasses.replace(verdict, cards=dataclasses.replace(cards, fewest_count=fewest or None))


class _Search:
    """What was traced so far: `tried` has the prediction for each number of cards."""

    def __init__(self, run: ResolvedRun, predictor: Predictor, progress: Progress) -> None:
        self._run = run
        self._predictor = predictor
        self._progress = progress
        self.tried: dict[int, Prediction] = {}

    def find(self, first: int, known: int | None = None) -> tuple[int, int]:
        """Return the most cards that it does not fit on and the fewest that it does, 0 where none was found.

        It is looked for from `first` on; it fits on `known`, where that is a number.
        """
        low, high = 0, first
        if self.fits(first):
            if first == 1 or not self.fits(first - 1):
                return first - 1, first
            high = first - 1
        else:
            while low == 0 or not self.fits(high):
                low, high = high, 2 * high if known is None or known <= high else min(2 * high, known)
                if high > MOST_CARDS or self.is_at_floor(low):
                    return low, 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.fits(middle) else (middle, high)
        return low, high

    def fits(self, count: int) -> bool:
        """Trace a rank of so many and tell whether it fits for sure; UnsupportedModelError where it has no trace."""
        self._progress(f"trace {len(self.tried) + 1}: {count:,} {'card' if count == 1 else 'cards'}")
        try:
            self.tried[count] = self._predictor.predict(self._run.with_cards(count))
        except NotTraceableError as error:
            raise UnsupportedModelError(
                f"nothing says whether the run fits {count:,} cards: {one_line(error, 300)}; drop `fit`."
            ) from error
        return self._leaves_margin(count)

    def is_at_floor(self, count: int) -> bool:
        """Tell whether twice as many cards took off less than a hundredth, the last time."""
        before = self.tried.get(count // 2) if count > 2 else None  # one card alone runs other code than a rank
        return before is not None and self.tried[count].peak_allocated_bytes > 0.99 * before.peak_allocated_bytes

    def describe(self, count: int) -> Tried:
        """Return what is shown of a trial."""
        prediction, fits = self.tried[count], self._leaves_margin(count)
        is_tight = not fits and prediction.replays.run_under(self._predictor.find_usable_bytes(prediction.run))
        return Tried(value=count, fits=fits, total_bytes=prediction.total_bytes, is_tight=is_tight or None)

    def _leaves_margin(self, count: int) -> bool:
        run = self.tried[count].run
        usable, unknown = self._predictor.find_usable_bytes(run), self._predictor.find_unknown_bytes(run)
        return self.tried[count].replays.run_under(usable, unknown)
