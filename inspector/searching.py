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
from inspector.fit.interpolation import TapesBySize
from inspector.fit.search import largest
from inspector.fit_records import QUANTITIES, Gpu, Search, Tried
from inspector.memory.timeline import fold
from inspector.records import LoraOptions, Request
from inspector.trace.training import NotTraceableError
from inspector.trials import Progress, Trial, Trials

__all__ = ["find_largest", "with_value"]

_MOST = 2**24
_MOST_RANK = 2**16
_MOST_FORETOLD = 48


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


def find_largest(request: Request, quantity: str, gpu: Gpu, trials: Trials, progress: Progress) -> Search:
    """Return the largest value of `quantity` with which the step of `request` runs on `gpu`."""
    start, most = _range(request, quantity, trials)
    tapes = TapesBySize()
    tried: dict[int, Tried] = {}
    trial: Trial | None = None

    def fits(value: int) -> bool:
        nonlocal trial
        progress(f"trace {len(tried) + 1}: {quantity} {value:,}{_said(tried)}")
        try:
            trial = trials.run(with_value(request, quantity, value))
        except NotTraceableError as error:
            raise UnsupportedModelError(
                f"nothing says whether {quantity} {value:,} fits: {one_line(error, 300)}; drop --fit."
            ) from error
        tapes.add(value, trial.tape)
        result = trial.on(gpu)
        tried[value] = Tried(value=value, fits=result.fits, total_bytes=trial.total_bytes)
        usable.append(result.usable_bytes)
        return result.fits

    usable: list[int] = []

    def foretold(value: int) -> bool:
        assert trial is not None
        tape = tapes.at(value)
        assert tape is not None
        order = trial.descending
        return fold(tape, trial.settings, limit_bytes=usable[-1], descending_addresses=order).ran_out is None

    def hint(low: int, high: int) -> int | None:
        if tapes.at(high) is None:
            return None
        near = min(max(_crossing(tried, usable[-1] + trial.overhead_bytes if trial else 0), low + 1), high - 1)
        found = largest(foretold, start=near, most=high - 1, hint=lambda _low, _high: near, most_trials=_MOST_FORETOLD)
        return found.fits

    bounds = largest(fits, start=start, most=most, hint=hint)
    return Search(
        quantity=quantity,
        gpu=gpu.name,
        value=bounds.fits or None,
        fails=bounds.fails if bounds.fails <= most else None,
        most=most,
        traces=bounds.trials,
        tried=tuple(tried[value] for value in sorted(tried)),
    )


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


def _crossing(tried: Mapping[int, Tried], total_bytes: int) -> int:
    """Return where a straight line through the two largest values tried reaches a total; 1 where it does not rise."""
    (low, high) = (tried[value] for value in sorted(tried)[-2:])
    slope = (high.total_bytes - low.total_bytes) / (high.value - low.value)
    return max(int(low.value + (total_bytes - low.total_bytes) / slope), 1) if slope > 0 else high.value


def _said(tried: Mapping[int, Tried]) -> str:
    """Say what is known so far."""
    fitting = [value for value, each in tried.items() if each.fits]
    failing = [value for value, each in tried.items() if not each.fits]
    parts = [f"{max(fitting):,} fits"] if fitting else []
    parts += [f"{min(failing):,} does not"] if failing else []
    return f" ({', '.join(parts)})" if parts else ""
