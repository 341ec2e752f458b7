"""The largest value that fits, in few trials: bracket, bisect, and take a hint where there is one.

Peaks grow with batch size, sequence length and rank, so that all values below one that fits do, too. Without a hint
trials double until one fails, and then halve what is left. A hint says where the border probably lies: the trials go
there, and from there outwards in doubling steps, so that a good one needs two trials more, the value itself and the
next one.

Does not cover: quantities whose memory falls somewhere, as where a kernel pads odd sizes. What is found then is a value
that fits below one that does not, and a larger one may fit, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["MOST_TRIALS", "Bounds", "bisect_largest"]

MOST_TRIALS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a search knows: `fits` is the largest value that was seen to fit, 0 where none was.

    `fails` is the smallest value above that does not fit, one beyond the range where all of it fits. `trials` counts.
    """

    fits: int
    fails: int
    trials: int


def bisect_largest(
    fits: Callable[[int], bool],
    *,
    start: int,
    most: int,
    hint: Callable[[int, int], int | None] = lambda _fits, _fails: None,
    most_trials: int = MOST_TRIALS,
    trusts_hint: bool = False,
) -> Bounds:
    """Return the border between the values from 1 to `most` that fit and those that do not, `start` tried first.

    `hint` gets the bounds so far and returns the value that it takes for the largest that fits, None for no idea. Where
    it is trusted, the search ends when that value was tried and fits.
    """
    low, high, step = 0, most + 1, 1
    candidate = min(max(start, 1), most)
    trials = 0
    while high - low > 1 and trials < most_trials:
        trials += 1
        if fits(candidate):
            low = candidate
        else:
            high = candidate
        hinted = hint(low, high) if high - low > 1 else None
        if trusts_hint and hinted == low > 0:
            break
        if hinted is None:
            candidate, step = _choose_unguided(low, high, most), 1
        elif low < hinted < high:
            candidate, step = hinted, 1
        else:
            beside = low + step if hinted <= low else high - step
            candidate = beside if low < beside < high else (low + high) // 2
            step *= 2
    return Bounds(fits=low, fails=high, trials=trials)


def _choose_unguided(low: int, high: int, most: int) -> int:
    """Return twice what fits as long as nothing failed, the middle from then on."""
    return min(2 * low, most) if high > most else (low + high) // 2
