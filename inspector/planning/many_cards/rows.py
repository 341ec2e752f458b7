"""The rows of a plan of several cards: a recipe under each strategy, on more and more cards.

Each number of cards is a trace of the rank that takes most: powers of two between the ends that were asked for, and
where one fits and the power below does not, numbers between them until the least that fits is found. Where each card
has the whole model, further ones change nothing, and the ends say so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from inspector.errors import InspectorError, NotTraceableError, one_line
from inspector.planning.changes import format_options
from inspector.planning.ladder import Candidate
from inspector.planning.many_cards.floor import find_floor
from inspector.predict.predictor import Predictor
from inspector.records.fit import CardCount, Fit, Method, PlanRow, Scaling
from inspector.records.request import Sharding
from inspector.records.steps.ranks import Ddp
from inspector.resolve import ResolvedRun
from inspector.runtime.heap import give_back_memory

__all__ = ["STRATEGIES", "Counts", "Spread", "Strategy", "build_card_rows", "spread"]


class Counts(NamedTuple):
    """The numbers of cards that a plan is about, from `least` to `most`."""

    least: int
    most: int

    def list_powers(self) -> list[int]:
        """Return both ends and the powers of two between them."""
        powers = (2**exponent for exponent in range(self.most.bit_length()))
        return sorted({self.least, self.most, *(power for power in powers if self.least < power < self.most)})


class Strategy(NamedTuple):
    """A way to spread a run over cards: its name, what is sharded, and the option that asks for it."""

    name: str
    sharding: Sharding | None
    option: str


STRATEGIES = (
    Strategy("DDP", None, ""),
    Strategy("FSDP2", Sharding.FSDP, "--fsdp"),
    Strategy("FSDP1", Sharding.FSDP1, "--fsdp --fsdp-version 1"),
    Strategy("ZeRO-1", Sharding.ZERO1, "--deepspeed zero1"),
    Strategy("ZeRO-2", Sharding.ZERO2, "--deepspeed zero2"),
    Strategy("ZeRO-3", Sharding.ZERO3, "--deepspeed zero3"),
)
_ALONE = Strategy("one card", None, "")
_SEVERAL = Strategy("several cards", None, "")
_NOT_TRACED = "what each rank takes is not traced yet"


class Spread(NamedTuple):
    """A candidate under a strategy, and the run that it makes of what was asked for."""

    strategy: Strategy
    candidate: Candidate
    run: ResolvedRun

    @property
    def is_traced(self) -> bool:
        """Tell whether there is a trace of its ranks."""
        return self.run.with_cards(2).launch is not None


def spread(run: ResolvedRun, strategy: Strategy) -> ResolvedRun:
    """Return a run with what a strategy shards."""
    return run.with_request(dataclasses.replace(run.request, sharding=strategy.sharding))


def build_card_rows(spreads: Sequence[Spread], counts: Counts, predictor: Predictor) -> list[PlanRow]:
    """Return a row for each strategy of one recipe whose ranks are traced, of one card alone where none is."""
    found = [item for item in spreads if item.is_traced] if counts.most > 1 else []
    if found:
        return [_build_alone(item, counts, predictor) for item in found]
    alone = spreads[0]._replace(strategy=_ALONE)
    if counts.least > 1:
        return [_refuse(alone._replace(strategy=_SEVERAL), _NOT_TRACED)]
    return [_build_row(alone, Counts(1, 1), lambda _count: predictor)]


def _build_alone(item: Spread, counts: Counts, predictor: Predictor) -> PlanRow:
    """Return the row of a strategy whose traces end with it: they are 100 MiB, and what they leave in cycles as much.

    One card has the same step under all of them.
    """
    give_back_memory()
    own = predictor.copy_models()
    return _build_row(item, counts, lambda count: predictor if count == 1 else own)


def _build_row(item: Spread, counts: Counts, choose: Callable[[int], Predictor]) -> PlanRow:
    """Trace a candidate on the cards of a plan, and what more of them would not take off."""
    strategy, candidate, run = item
    try:
        trials = _Trials(run, choose)
        least = trials.find_least(counts)
        is_sharded = strategy.sharding is not None
        floor = find_floor(run.with_cards(counts.most), choose(counts.most)) if is_sharded else None
    except (NotTraceableError, InspectorError) as error:
        return _refuse(item, one_line(error, 300))
    shown = trials.done[counts.most if least is None else least]
    cards = "" if shown.count == 1 else f"--gpus {shown.count} {strategy.option}"
    return PlanRow(
        method=_find_method(candidate),
        options=f"{format_options(candidate.change)} {cards}".strip(),
        levers=_name_levers(strategy.name, candidate),
        outcome=shown.outcome,
        peak_allocated_bytes=shown.peak_allocated_bytes,
        total_bytes=shown.total_bytes,
        headroom_bytes=shown.headroom_bytes,
        scaling=Scaling(
            strategy=strategy.name,
            least=least,
            counts=tuple(trials.done[count] for count in sorted(trials.done)),
            floor=floor,
        ),
    )


class _Trials:
    """What was traced so far of a run: `done` has each number of cards."""

    def __init__(self, run: ResolvedRun, choose: Callable[[int], Predictor]) -> None:
        self._run = run
        self._choose = choose
        self.done: dict[int, CardCount] = {}

    def find_least(self, counts: Counts) -> int | None:
        """Return the least number of cards that the run fits on for sure, None where it does on none."""
        is_whole = isinstance(self._run.with_cards(2).launch, Ddp)
        powers = counts.list_powers()
        tried = sorted({powers[0], min(max(2, powers[0]), powers[-1]), powers[-1]}) if is_whole else powers
        fitting = [count for count in tried if self.fits(count)]
        if not fitting:
            return None
        high = fitting[0]
        low = max((count for count in tried if count < high), default=high - 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.fits(middle) else (middle, high)
        return high

    def fits(self, count: int) -> bool:
        """Trace a rank of so many and tell whether it fits for sure."""
        prediction = self._choose(count).predict(self._run.with_cards(count))
        verdict = prediction.judge()
        self.done[count] = CardCount(
            count=count,
            outcome=verdict.outcome,
            peak_allocated_bytes=prediction.peak_allocated_bytes,
            total_bytes=prediction.total_bytes,
            headroom_bytes=verdict.headroom_bytes,
        )
        return verdict.outcome is Fit.YES


def _refuse(item: Spread, why: str) -> PlanRow:
    """Return the row of what was not traced."""
    candidate = item.candidate
    return PlanRow(
        method=_find_method(candidate),
        options=format_options(candidate.change),
        levers=_name_levers(item.strategy.name, candidate),
        refused=why,
    )


def _name_levers(strategy: str, candidate: Candidate) -> tuple[str, ...]:
    """Return a strategy and what a candidate changes; the optimizer is that of all."""
    return strategy, *(lever for lever in candidate.levers if not lever.startswith("adamw"))


def _find_method(candidate: Candidate) -> Method:
    """Return how a candidate trains."""
    assert candidate.method is not None, "a plan is of training"
    return candidate.method
