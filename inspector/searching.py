"""`--fit`: the largest batch, row or rank that runs on a GPU, each trial traced.

Two traced sizes foretell the tapes of others (`fit.interpolation`), which says where to trace next. What is reported
was traced: the value that fits, and the next one, which does not.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from inspector.errors import UnsupportedModelError, UsageError, one_line
from inspector.fit.interpolation import DEGREE, TapesBySize, curve
from inspector.fit.search import largest
from inspector.fit_records import QUANTITIES, Gpu, Search, Tried, Verdict
from inspector.records import LoraOptions, Request
from inspector.trace.training import NotTraceableError
from inspector.trials import Progress, Trial, Trials

__all__ = ["find_largest", "with_value"]

_MOST = 2**24
_MOST_RANK = 2**16
_MOST_FORETOLD = 48
# How many times the largest value traced a curve is followed.
_FARTHEST = 8


def _with_batch_size(request: Request, value: int) -> Request:
    return dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, batch_size=value))


def _with_seq_len(request: Request, value: int) -> Request:
    return dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, seq_len=value))


def _with_rank(request: Request, value: int) -> Request:
    """Return the request with an adapter of another rank, whatever form it was given in."""
    peft: Any = request.peft
    if isinstance(peft, LoraOptions):
        peft = dataclasses.replace(peft, r=value)
    elif isinstance(peft, Mapping):
        peft = {**peft, "r": value}
    else:
        peft = copy.deepcopy(peft)
        peft.r = value
    return dataclasses.replace(request, peft=peft)


def _rank(request: Request) -> int:
    """Return the rank that the search starts from, or raise UsageError where the adapter has none."""
    peft = request.peft
    if isinstance(peft, Mapping):
        kind = str(peft.get("peft_type", "")).upper()
        rank = peft.get("r", 8) if "r" in peft or kind == "LORA" else None
    else:
        rank = getattr(peft, "r", None) or (8 if isinstance(peft, LoraOptions) else None)
    if not isinstance(rank, int) or rank < 1:
        raise UsageError(
            "--fit rank searches the rank r of an adapter, and none with a rank is asked for: add --lora r=8."
        )
    return rank


_WITH: dict[str, Callable[[Request, int], Request]] = dict(
    zip(QUANTITIES, (_with_batch_size, _with_seq_len, _with_rank), strict=True)
)


def with_value(request: Request, quantity: str, value: int) -> Request:
    """Return the request with another value of a quantity."""
    return _WITH[quantity](request, value)


def find_largest(
    request: Request,
    quantity: str,
    gpu: Gpu,
    trials: Trials,
    progress: Progress,
    *,
    unit: int = 1,
    guess: int | None = None,
    confirms: bool = True,
) -> Search:
    """Return the largest multiple of `unit` with which the step of `request` runs on `gpu`, probably near `guess`.

    The end of the range counts as one.

    It was traced. That the next one does not fit was traced, too, or, where `confirms` is false, foretold.
    """
    start, most = _range(request, quantity, trials)
    search = _Searched(request, quantity, unit, most, guess, gpu, trials, progress)
    last = -(-most // unit)
    bounds = largest(search.fits, start=-(-start // unit), most=last, hint=search.hint, trusts_hint=not confirms)
    return Search(
        quantity=quantity,
        gpu=gpu.name,
        value=search.value(bounds.fits) or None,
        fails=search.value(bounds.fails) if bounds.fails <= last else None,
        most=most,
        traces=bounds.trials,
        tried=tuple(search.tried[value] for value in sorted(search.tried)),
    )


class _Searched:
    """What a search has traced so far, and what that foretells."""

    def __init__(
        self,
        request: Request,
        quantity: str,
        unit: int,
        most: int,
        guess: int | None,
        gpu: Gpu,
        trials: Trials,
        progress: Progress,
    ) -> None:
        self._request = request
        self._quantity = quantity
        self._unit = unit
        self._most = most
        self._guess = guess
        self._gpu = gpu
        self._trials = trials
        self._progress = progress
        self._tapes = TapesBySize()
        self._traced: dict[int, tuple[Trial, Verdict]] = {}
        self.tried: dict[int, Tried] = {}

    def value(self, units: int) -> int:
        """Return a multiple of the unit; the last one is the end of the range."""
        return min(self._unit * units, self._most)

    def fits(self, units: int) -> bool:
        """Trace a value."""
        value = self.value(units)
        self._progress(f"trace {len(self.tried) + 1}: {self._quantity} {value:,}{_said(self.tried)}")
        try:
            trial = self._trials.run(with_value(self._request, self._quantity, value))
        except NotTraceableError as error:
            raise UnsupportedModelError(
                f"nothing says whether {self._quantity} {value:,} fits: {one_line(error, 300)}; drop --fit."
            ) from error
        verdict = trial.on(self._gpu)
        self._tapes.add(value, trial.traced)
        self._traced[value] = trial, verdict
        self.tried[value] = Tried(value=value, fits=verdict.fits, total_bytes=trial.total_bytes)
        return verdict.fits

    def hint(self, low: int, high: int) -> int | None:
        """Return the value that is probably the largest that fits, None where too little was traced to say."""
        if len(self.tried) < 2:
            if self._guess is not None:
                return min(max(self._guess // self._unit, low + 1), high - 1)
            return 1 if low == 0 else None  # where the least does not fit either, nothing does
        near = self._crossing(low, high)
        if (self._guess is None and len(self.tried) < 3) or self._tapes.at(self.value(near)) is None:
            return near
        found = largest(
            self._foretells, start=near, most=high - 1, hint=lambda _low, _high: near, most_trials=_MOST_FORETOLD
        )
        return found.fits

    def _foretells(self, units: int) -> bool:
        """Tell whether the tape that is foretold for a value runs; what was traced is known."""
        value = self.value(units)
        if value in self.tried:
            return self.tried[value].fits
        tape = self._tapes.at(value)
        assert tape is not None
        trial, verdict = self._traced[self._tapes.like(value)]
        return trial.replays_of(tape).under(verdict.usable_bytes).failure is None

    def _crossing(self, low: int, high: int) -> int:
        """Return the last multiple between two where a curve through the peaks traced stays below what is usable.

        The border lies between the peaks of reserved and of allocated memory: what is cached is given back when memory
        runs out, all but what lies between blocks that live.
        """
        usable = next(iter(self._traced.values()))[1].usable_bytes
        peaks = {
            value: (trial.replays.unlimited.peak_reserved_bytes + trial.replays.unlimited.peak_allocated_bytes) // 2
            for value, (trial, _) in self._traced.items()
        }
        nearest = sorted(peaks, key=lambda value: abs(peaks[value] - usable))[: DEGREE + 1]
        # Far from what was traced the curve says nothing: as long as another phase has the peak, peaks do not grow.
        below, above = low + 1, min(high, max(_FARTHEST * max(peaks) // self._unit, low + 2))
        while above - below > 1:
            middle = (below + above) // 2
            peak = curve(nearest, [peaks[value] for value in nearest], self._unit * middle)
            below, above = (middle, above) if peak <= usable else (below, middle)
        return below


def _range(request: Request, quantity: str, trials: Trials) -> tuple[int, int]:
    """Return where to start and how far to go."""
    if quantity == "rank":
        return _rank(request), _MOST_RANK
    if quantity == "batch-size":
        return request.recipe.batch_size, _MOST
    try:
        longest = trials.resolved(_with_seq_len(request, _MOST)).seq_len
    except NotTraceableError as error:
        raise UnsupportedModelError(f"no row was searched: {one_line(error, 300)}; drop --fit.") from error
    if longest is None:
        raise UsageError(
            "--fit seq-len: the model takes no tokens, so that its rows have no length; use --fit batch-size."
        )
    return request.recipe.seq_len or 1, longest


def _said(tried: Mapping[int, Tried]) -> str:
    """Say what is known so far."""
    fitting = [value for value, each in tried.items() if each.fits]
    failing = [value for value, each in tried.items() if not each.fits]
    parts = [f"{max(fitting):,} fits"] if fitting else []
    parts += [f"{min(failing):,} does not"] if failing else []
    return f" ({', '.join(parts)})" if parts else ""
