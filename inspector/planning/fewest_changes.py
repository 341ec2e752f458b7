"""Which changes make a step fit, found with few trials: a chain of them, pared down.

The changes stand in the order of the harm that they do. All together are tried first: where even they do not fit,
nothing does. The shortest chain from the first one on that fits is then bisected; where the step refuses one of them,
the chain is built change by change instead. What fits contains its last change, since the chain without it does not:
first that one is tried alone and with one other. Then the changes that do more harm are tried alone. Where no pair did,
the others of the chain are then taken out one by one, the most harmful first, where the step fits without.

Does not cover: sets that differ by more than that; a smaller sum of harms may exist.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["MOST_TRIALS", "find_fitting_changes"]

MOST_TRIALS = 8

# What a set of changes comes to: whether the step fits and its total bytes; None where the step cannot run like that,
# or where no trial is left.
Outcome = tuple[bool, int] | None
Chosen = tuple[int, ...]


def find_fitting_changes(count: int, total_bytes: int, try_changes: Callable[[Chosen], Outcome]) -> list[Chosen]:
    """Return sets of the changes 0 to `count` - 1 that fit, the least harmful first; empty where none was found.

    `total_bytes` is what the step takes without any of them.
    """
    chain = _find_chain(count, total_bytes, try_changes)
    if chain is None:
        return []
    pair = _find_pair(chain, try_changes)
    alone = [(change,) for change in range(chain[-1] + 1, count) if _fits((change,), try_changes)]
    return [_pare_chain(chain, try_changes) if pair is None else pair, *alone]


def _find_chain(count: int, total_bytes: int, try_changes: Callable[[Chosen], Outcome]) -> Chosen | None:
    """Return the shortest chain from the first change on that fits, None where all together do not."""
    low, high = 0, count
    everything = try_changes(tuple(range(count))) if count else (False, total_bytes)
    if everything is None:
        return _build_chain(count, total_bytes, try_changes)
    if not everything[0]:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        outcome = try_changes(tuple(range(middle)))
        if outcome is None:
            return _build_chain(count, total_bytes, try_changes)
        low, high = (low, middle) if outcome[0] else (middle, high)
    return tuple(range(high))


def _build_chain(count: int, total_bytes: int, try_changes: Callable[[Chosen], Outcome]) -> Chosen | None:
    """Take change after change, those left out that the step refuses or that raise the total, until the step fits."""
    chain: Chosen = ()
    for change in range(count):
        outcome = try_changes((*chain, change))
        if outcome is None or outcome[1] > total_bytes:
            continue
        chain, total_bytes = (*chain, change), outcome[1]
        if outcome[0]:
            return chain
    return None


def _find_pair(chain: Chosen, try_changes: Callable[[Chosen], Outcome]) -> Chosen | None:
    """Return the last change of a chain alone or with one other where that fits."""
    *others, last = chain
    pairs = [(last,), *((other, last) for other in others)]
    return next((pair for pair in pairs if pair == chain or _fits(pair, try_changes)), None)


def _pare_chain(chain: Chosen, try_changes: Callable[[Chosen], Outcome]) -> Chosen:
    """Return a chain without those of its changes that are not needed; the last one is."""
    for change in reversed(chain[:-1]):
        shorter = tuple(other for other in chain if other != change)
        if _fits(shorter, try_changes):
            chain = shorter
    return chain


def _fits(chosen: Chosen, try_changes: Callable[[Chosen], Outcome]) -> bool:
    """Tell whether a set was tried and fits."""
    outcome = try_changes(chosen)
    return outcome is not None and outcome[0]
