"""A plan of several cards: its candidates, traced in one process a core, and what is said of all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inspector.errors import UnsupportedModelError
from inspector.planning.changes import apply_change
from inspector.planning.ladder import Candidate
from inspector.planning.many_cards.rows import Counts, build_card_rows, list_strategies
from inspector.planning.plan import describe_plan, find_shared_facts, list_candidates
from inspector.predict import Predictor
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
    listed = list_candidates(run, predictor)
    candidates = [item for item in listed if set(item.levers) <= _LEVERS and "optimizer" not in item.change]
    tasks: list[Callable[[], Any]] = [functools.partial(find_shared_facts, run, candidates)]
    tasks += [functools.partial(_build_rows, run, item, counts, predictor) for item in candidates]
    done: dict[int, Any] = {}
    progress(_describe_tracing(len(candidates), 0))
    for index, result in processes.run_in_processes(lambda task: task(), tasks):
        done[index] = result
        progress(_describe_tracing(len(candidates), sum(1 for task in done if task)))
    rows: list[PlanRow] = [row for index in range(1, len(tasks)) for row in done[index]]
    if all(row.total_bytes is None for row in rows):
        raise UnsupportedModelError(f"no step could be traced: {rows[0].refused}; `count_only` has the counts.")
    said = (*notices, *_find_untraced(run, candidates, counts))
    of_ranks = run.with_cards(counts.most)
    return describe_plan(of_ranks, predictor, done[0], rows, versions, said, gpu_counts=(counts.least, counts.most))


def _find_untraced(run: ResolvedRun, candidates: Sequence[Candidate], counts: Counts) -> list[Notice]:
    """Return a notice where a method has no strategy whose ranks are traced."""
    alone = {
        item.method.value
        for item in candidates
        if item.method is not None and not list_strategies(run.with_request(apply_change(run.request, item.change)))
    }
    if counts.most == 1 or not alone:
        return []
    message = (
        f"What each of several ranks takes is not traced yet for {' and '.join(sorted(alone))}: one card is shown."
    )
    return [Notice(code="several-gpus", message=message)]


def _build_rows(run: ResolvedRun, candidate: Candidate, counts: Counts, predictor: Predictor) -> list[PlanRow]:
    """Return the rows of a candidate, traced in a process of its own."""
    asked = run.with_request(apply_change(run.request, candidate.change))
    return build_card_rows(asked, candidate, counts, predictor.copy_models())


def _describe_tracing(total: int, done: int) -> Stage:
    """Say how many recipes are traced on all cards."""
    return Stage(
        f"tracing {total} recipes on all cards, {done} done",
        heading=f"tracing {total} recipes on all cards",
        done=done,
        total=total,
    )
