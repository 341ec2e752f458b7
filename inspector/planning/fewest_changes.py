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

__all__ = ["MOST_TRIALS", "fitting_changes"]

MOST_TRIALS = 8

# What a set of changes comes to: whether the step fits and its total bytes; None where the step cannot run like that,
# or where no trial is left.
Outcome = tuple[bool, int] | None
Chosen = tuple[int, ...]


def fitting_changes(count: int, total_bytes: int, tried: Callable[[Chosen], Outcome]) -> list[Chosen]:
    """Return sets of the changes 0 to `count` - 1 that fit, the least harmful first; empty where none was found.

    `total_bytes` is what the step takes without any of them.
    """
    chain = _chain(count, total_bytes, tried)
    if chain is None:
        return []
    pair = _pair(chain, tried)
    alone = [(change,) for change in range(chain[-1] + 1, count) if _fits((change,), tried)]
    return [_pared(chain, tried) if pair is None else pair, *alone]


def _chain(count: int, total_bytes: int, tried: Callable[[Chosen], Outcome]) -> Chosen | None:
    """Return the shortest chain from the first change on that fits, None where all together do not."""
    low, high = 0, count
    everything = tried(tuple(range(count))) if count else (False, total_bytes)
    if everything is None:
        return _chain_of_what_runs(count, total_bytes, tried)
    if not everything[0]:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        outcome = tried(tuple(range(middle)))
        if outcome is None:
            return _chain_of_what_runs(count, total_bytes, tried)
        low, high = (low, middle) if outcome[0] else (middle, high)
    return tuple(range(high))


def _chain_of_what_runs(count: int, total_bytes: int, tried: Callable[[Chosen], Outcome]) -> Chosen | None:
    """Take change after change, those left out that the step refuses or that raise the total, until the step fits."""
    chain: Chosen = ()
    for change in range(count):
        outcome = tried((*chain, change))
        if outcome is None or outcome[1] > total_bytes:
            continue
        chain, total_bytes = (*chain, change), outcome[1]
        if outcome[0]:
            return chain
    return None


def _pair(chain: Chosen, tried: Callable[[Chosen], Outcome]) -> Chosen | None:
    """Return the last change of a chain alone or with one other where that fits."""
    *others, last = chain
    pairs = [(last,), *((each, last) for each in others)]
    return next((few for few in pairs if few == chain or _fits(few, tried)), None)


def _pared(chain: Chosen, tried: Callable[[Chosen], Outcome]) -> Chosen:
    """Return a chain without those of its changes that are not needed; the last one is."""
    for change in reversed(chain[:-1]):
        shorter = tuple(each for each in chain if each != change)
        if _fits(shorter, tried):
            chain = shorter
    return chain


def _fits(chosen: Chosen, tried: Callable[[Chosen], Outcome]) -> bool:
    """Tell whether a set was tried and fits."""
    outcome = tried(chosen)
    return outcome is not None and outcome[0]
