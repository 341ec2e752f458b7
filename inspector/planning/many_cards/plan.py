"""A plan of several cards: its candidates, traced in one process a core, and what is said of all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inspector.errors import UnsupportedModelError
from inspector.planning.changes import apply_change
from inspector.planning.many_cards.rows import STRATEGIES, Counts, Spread, build_card_rows, spread
from inspector.planning.plan import describe_plan, find_shared_facts, list_candidates
from inspector.predict.predictor import Predictor
from inspector.records.fit import Plan, PlanRow
from inspector.records.notice import Notice
from inspector.resolve import ResolvedRun
from inspector.runtime import processes
from inspector.runtime.stage import Stage

__all__ = ["build_card_plan"]

Progress = Callable[[str], None]
# The rungs that a plan of several cards has: more cards are what it goes through instead of the others.
_LEVERS = frozenset({"checkpointing", "no checkpointing", "adamw_torch_fused"})


def build_card_plan(
    run: ResolvedRun, counts: Counts, versions: Mapping[str, str], notices: Sequence[Notice], progress: Progress
) -> Plan:
    """Return how a model trains on numbers of cards: a row for each method, strategy and whether it is checkpointed.

    Raises what `build_plan` raises.
    """
    predictor = Predictor(run.files)
    recipes = _list_recipes(run, predictor)
    candidates = [spreads[0].candidate for spreads in recipes]
    tasks: list[Callable[[], Any]] = [functools.partial(find_shared_facts, run, candidates)]
    tasks += [functools.partial(_build_rows, spreads, counts, predictor) for spreads in recipes]
    done: dict[int, Any] = {}
    progress(_describe_tracing(len(recipes), 0))
    for index, result in processes.run_in_processes(lambda task: task(), tasks):
        done[index] = result
        progress(_describe_tracing(len(recipes), sum(1 for task in done if task)))
    rows: list[PlanRow] = [row for index in range(1, len(tasks)) for row in done[index]]
    if all(row.total_bytes is None for row in rows):
        raise UnsupportedModelError(f"no step could be traced: {rows[0].refused}; `count_only` has the counts.")
    said = (*notices, *_find_untraced(recipes, counts))
    of_ranks = run.with_cards(counts.most)
    margin_bytes = predictor.find_margin_bytes(of_ranks)
    spread_over = counts.least, counts.most
    return describe_plan(of_ranks, done[0], rows, versions, said, margin_bytes=margin_bytes, gpu_counts=spread_over)


def _list_recipes(run: ResolvedRun, predictor: Predictor) -> list[list[Spread]]:
    """Return the recipes of a plan, each with what it is under every strategy."""
    recipes: dict[tuple[object, ...], list[Spread]] = {}
    for strategy in STRATEGIES:
        spread_run = spread(run, strategy)
        for candidate in list_candidates(spread_run, predictor):
            if set(candidate.levers) <= _LEVERS and "optimizer" not in candidate.change:
                asked = spread_run.with_request(apply_change(spread_run.request, candidate.change))
                key = candidate.method, candidate.levers
                recipes.setdefault(key, []).append(Spread(strategy, candidate, asked))
    return list(recipes.values())


def _find_untraced(recipes: Sequence[Sequence[Spread]], counts: Counts) -> list[Notice]:
    """Return a notice where a method has no strategy whose ranks are traced."""
    alone = [spreads[0].candidate.method for spreads in recipes if not any(item.is_traced for item in spreads)]
    if counts.most == 1 or not alone:
        return []
    methods = " and ".join(sorted({method.value for method in alone if method is not None}))
    message = f"What each of several ranks takes is not traced yet for {methods}: one card is shown."
    return [Notice(code="several-gpus", message=message)]


def _build_rows(spreads: Sequence[Spread], counts: Counts, predictor: Predictor) -> list[PlanRow]:
    """Return the rows of a recipe, traced in a process of its own."""
    return build_card_rows(spreads, counts, predictor.copy_models())


def _describe_tracing(total: int, done: int) -> Stage:
    """Say how many recipes are traced on all cards."""
    return Stage(
        f"tracing {total} recipes on all cards, {done} done",
        heading=f"tracing {total} recipes on all cards",
        done=done,
        total=total,
    )
