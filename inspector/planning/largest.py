"""`--fit`: the largest batch size, sequence length or rank that runs on a GPU, each trial traced.

Tapes of other sizes are estimated from two traced ones (`extrapolate.interpolation`), which says where to trace next.
What is reported was traced: the value that fits, and the next one, which does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inspector.errors import NotTraceableError, UnsupportedModelError, UsageError, one_line
from inspector.memory.replay import Replays
from inspector.planning.bisection import MOST_TRIALS, bisect_largest
from inspector.planning.grid import Grid
from inspector.planning.quantities import set_value
from inspector.predict.generation import is_long
from inspector.predict.predictor import Prediction, Predictor
from inspector.records.fit import Quantity, Search, Tried
from inspector.records.hardware import Gpu
from inspector.records.recipe import find_prompt_len
from inspector.records.request import LoraOptions
from inspector.resolve import ResolvedRun
from inspector.runtime.stage import Stage

if TYPE_CHECKING:
    from inspector.extrapolate import Sizes, TapeTemplate

__all__ = ["Experience", "find_largest", "find_nearly_largest", "require_gpu"]

Progress = Callable[[str], None]

_MOST = 2**24
_MOST_RANK = 2**16
_MOST_ESTIMATED = 48
# How far the border of the recipe before may lie from where bytes say for it to be tried first.
_NEARBY = 0.06
# How many times the largest value traced the curves are followed.
_FARTHEST = 8


def _find_rank(run: ResolvedRun) -> int:
    """Return the rank that the search starts from, or raise UsageError where the adapter has none."""
    if run.files is not None and run.files.adapter_config is not None:
        raise UsageError(
            f"`fit=rank`: the rank of {run.files.adapter_id} is part of what is stored; name its base model "
            f"{run.files.id} with an adapter of its own, or use `fit=batch-size`."
        )
    peft = run.request.peft
    if isinstance(peft, Mapping):
        kind = str(peft.get("peft_type", "")).upper()
        rank = peft.get("r", 8) if "r" in peft or kind == "LORA" else None
    else:
        rank = getattr(peft, "r", None) or (8 if isinstance(peft, LoraOptions) else None)
    if not isinstance(rank, int) or rank < 1:
        raise UsageError(
            "`fit=rank` searches the rank of an adapter, and there is none with a rank: add `peft=LoraOptions(r=8)`."
        )
    return rank


def find_largest(run: ResolvedRun, quantity: str, predictor: Predictor, progress: Progress) -> Search:
    """Return the largest value of a quantity with which a run fits its card.

    It was traced, and that the next one does not fit was traced, too.
    """
    start, most = _find_range(run, quantity, predictor)
    search = _Search(run, quantity, predictor, progress, Grid(most), Experience())
    bounds = bisect_largest(search.fits, start=start, most=most, hint=search.hint)
    for value in search.tried:  # on another card, or with more left free, it may be what is found
        predictor.findings.keep_facts(search.set_value(value))
    return Search(
        quantity=quantity,
        gpu=require_gpu(run).name,
        value=bounds.fits or None,
        fails=bounds.fails if bounds.fails <= most else None,
        most=most,
        margin_bytes=predictor.find_margin_bytes(run),
        traces=bounds.trials,
        tried=tuple(search.describe(value) for value in sorted(search.tried)),
    )


@dataclass(slots=True)
class Experience:
    """The results of searches with similar recipes: where the next search starts.

    By quantity, `values` are the largest that fit and `traced` all that were traced; `least_peak_bytes` is the lower
    bound of the allocated peak at the last border.
    """

    values: dict[str, int] = field(default_factory=dict)
    traced: dict[str, Sequence[int]] = field(default_factory=dict)
    least_peak_bytes: int | None = None


def find_nearly_largest(
    run: ResolvedRun, quantity: str, predictor: Predictor, experience: Experience, *, unit: int = 1
) -> int:
    """Return the largest value of a grid with which a run fits its card, 0 where none does.

    The grid has multiples of `unit` less than 1 % apart, or one unit where that is more, and the end of the range. The
    value was traced; that the next one does not fit was traced or estimated. The search reads `experience` and adds to
    it.
    """
    start, most = _find_range(run, quantity, predictor)
    grid = Grid(most, unit)
    search = _Search(run, quantity, predictor, _ignore_stage, grid, experience)
    first = grid.number(start - 1) + 1
    bounds = bisect_largest(search.fits, start=first, most=grid.last, hint=search.hint, trusts_hint=True)
    found = grid.value(bounds.fits)
    if found:
        experience.values[quantity] = found
        experience.traced[quantity] = tuple(search.traced)
    return found


def _ignore_stage(_stage: str) -> None:
    """Ignore a stage: a search in a process of its own has no terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """What is kept of a value that was traced: a lower bound of its allocated peak in bytes, and its prediction.

    Where its tape is too long to be kept beside others, its total, whether it runs at all where nothing has to stay
    free, and what it reserves are kept in the place of the prediction.
    """

    bound_bytes: int
    prediction: Prediction | None
    total: tuple[int, bool] | None = None
    reserved_bytes: int = 0


class _Search:
    """What a search has traced so far and its estimates: `tried` says which values fit, `traced` what else is known."""

    def __init__(
        self,
        run: ResolvedRun,
        quantity: str,
        predictor: Predictor,
        progress: Progress,
        grid: Grid,
        experience: Experience,
    ) -> None:
        from inspector.extrapolate import SizeInterpolator  # loads numpy, which reports without a search do without

        self._run = run
        self._quantity = quantity
        self._usable, self._margin = predictor.find_usable_bytes(run), predictor.find_unknown_bytes(run)
        self._predictor = predictor
        self._progress = progress
        self._grid = grid
        self._experience = experience
        self._tapes = SizeInterpolator()
        # Lower bound of the allocated peak at the smallest value that was estimated to fail.
        self._fails_bytes: float | None = None
        self._known: dict[tuple[TapeTemplate, bytes], bool] = {}
        self.tried: dict[int, bool] = {}
        self.traced: dict[int, _Trial] = {}

    def fits(self, number: int) -> bool:
        """Trace a value of the grid and tell whether it fits; raise UnsupportedModelError where it cannot be traced."""
        value = self._grid.value(number)
        words = f"trace {len(self.tried) + 1}: {self._quantity} {value:,}{_format_bounds(self.tried)}"
        title = f"searching the largest {self._quantity}"
        self._progress(Stage(words, heading=title, done=len(self.tried), total=MOST_TRIALS))
        try:
            run = self.set_value(value)
            is_kept = not is_long(run)
            prediction = (self._predictor if is_kept else self._predictor.copy_models()).predict(run)
        except NotTraceableError as error:
            raise UnsupportedModelError(
                f"nothing says whether {self._quantity} {value:,} fits: {one_line(error, 300)}; drop `fit`."
            ) from error
        template, sizes = prediction.template, prediction.sizes
        if is_kept:
            self._tapes.add(value, template, sizes)
            self.tried[value] = self._fits(template, sizes, prediction.replays)
        else:
            reserved = prediction.replays.unlimited.peak_reserved_bytes  # the total takes this replay anyway
            runs = reserved <= self._usable - self._margin
            self.tried[value] = runs or self._find_out(template, sizes, prediction.replays)
        bound = template.bound_peak(sizes)
        if is_kept:
            self.traced[value] = _Trial(bound_bytes=bound, prediction=prediction)
        else:
            reserved = prediction.replays.unlimited.peak_reserved_bytes
            total = self._find_total(prediction, bound)
            self.traced[value] = _Trial(bound_bytes=bound, prediction=None, total=total, reserved_bytes=reserved)
        return self.tried[value]

    def describe(self, value: int) -> Tried:
        """Return what a report says of a traced value; a plan does not ask, and spares replays of what does not fit."""
        trial = self.traced[value]
        total = trial.total
        if total is None:
            assert trial.prediction is not None, "a trial has a prediction or its total"
            total = self._find_total(trial.prediction, trial.bound_bytes)
        fits = self.tried[value]
        return Tried(value=value, fits=fits, total_bytes=total[0], is_tight=(not fits and total[1]) or None)

    def _find_total(self, prediction: Prediction, bound_bytes: int) -> tuple[int, bool]:
        """Return the total of a traced run in bytes, and whether it runs if the card is as it is taken to be."""
        total_bytes = prediction.total_bytes
        return total_bytes, bound_bytes <= self._usable and prediction.replays.run_under(self._usable)

    def set_value(self, value: int) -> ResolvedRun:
        """Return the run with another value of the quantity."""
        return self._run.with_request(set_value(self._run.request, self._quantity, value))

    def _fits(self, template: TapeTemplate, sizes: Sizes, replays: Replays) -> bool:
        """Tell whether a step runs on the GPU and leaves the margin free; the same sizes are replayed once."""
        key = template, sizes.tobytes()
        if key not in self._known:
            self._known[key] = self._find_out(template, sizes, replays)
        return self._known[key]

    def _find_out(self, template: TapeTemplate, sizes: Sizes, replays: Replays) -> bool:
        """Tell the same, which is not remembered."""
        can_fit = template.bound_peak(sizes) <= self._usable - self._margin
        return can_fit and replays.run_under(self._usable, self._margin)

    def hint(self, low: int, high: int) -> int | None:
        """Return the value that is probably the largest that fits, None where too little was traced to say."""
        if len(self.tried) == 1:
            return self._guess_first(low, high)
        between = self._interpolate_reserved(low, high)
        if between is not None:
            return between
        farthest = self._limit_curves(low, high)
        # Below the border of what is allocated lies that of what the allocator has to reserve for it.
        border = near = self._find_last_below(self._usable - self._margin, low, farthest)
        if self._experience.least_peak_bytes is not None:
            near = max(self._find_last_below(self._experience.least_peak_bytes, low, farthest), 1)
        if self._experience.values.get(self._quantity) == self._grid.value(low) and near - low <= _NEARBY * low:
            near = low
        if self._tapes.estimate(self._grid.value(border + 1)) is None:
            return min(max(near, low + 1), high - 1)
        if self._fails_bytes is not None and low and self._estimate_peak(low + 1) >= self._fails_bytes:
            return low
        found = bisect_largest(
            self._estimate_fits, start=near, most=border, hint=lambda _low, _high: near, most_trials=_MOST_ESTIMATED
        )
        if found.fits:
            self._experience.least_peak_bytes = int(self._estimate_peak(found.fits))
        least = self._estimate_peak(found.fails)
        # Where curves are followed no further, what lies beyond was not estimated to fail.
        self._fails_bytes = least if found.fails <= border or least > self._usable - self._margin else None
        return found.fits

    def _interpolate_reserved(self, low: int, high: int) -> int | None:
        """Return where what is reserved fills the card, None where tapes are kept, which say more."""
        fits, fails = (self.traced.get(self._grid.value(number)) for number in (low, high))
        if not low or fits is None or fails is None or fits.prediction is not None or fails.prediction is not None:
            return None
        room = self._usable - self._margin - fits.reserved_bytes
        growth = fails.reserved_bytes - fits.reserved_bytes
        if room <= 0:  # it runs by giving cached blocks back, and others may, as far as what is allocated fits
            return min((low + self._find_last_below(self._usable - self._margin, low, high) + 1) // 2, high - 1)
        return min(low + room * (high - low) // growth, high - 1) if growth > 0 else None

    def _find_last_below(self, limit_bytes: int, low: int, high: int) -> int:
        """Return the last value from `low` on and below `high` with no more allocated at its peak than the limit."""
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._estimate_peak(middle) <= limit_bytes else (low, middle)
        return low

    def _guess_first(self, low: int, high: int) -> int | None:
        """Return what to try after one trace: where a similar search ended, or what activations say fills the card."""
        guess = self._experience.values.get(self._quantity)
        if guess is not None:
            self._add_known()
            return min(max(self._grid.number(guess), low + 1), high - 1)
        if low == 0:
            return 1  # where the least does not fit either, nothing does
        ((value, trial),) = self.traced.items()
        prediction = trial.prediction
        if prediction is None:
            return None
        growing, others = prediction.template.split_peak(prediction.sizes)
        rest = max(self._usable - self._margin - others, 0) * value // max(growing, 1)
        return min(max(self._grid.number(rest), low + 1), high - 1)

    def _add_known(self) -> None:
        """Add the tapes that cost no trace: those of the same passes before another optimizer."""
        for value in self._experience.traced.get(self._quantity, ()):
            prediction = self._predictor.find_known(self.set_value(value))
            if prediction is not None:
                self._tapes.add(value, prediction.template, prediction.sizes)

    def _limit_curves(self, low: int, high: int) -> int:
        """Return how far the curves are followed: beyond what was traced they say little."""
        return min(high, max(self._grid.number(_FARTHEST * max(self.traced)), low + 2))

    def _estimate_peak(self, number: int) -> float:
        """Return a lower bound of the allocated peak in bytes, from an estimated tape or else from traced peaks."""
        from inspector.extrapolate import DEGREE, interpolate  # as above

        value = self._grid.value(number)
        estimated = self._tapes.estimate(value)
        if estimated is not None:
            template, sizes = estimated
            return template.bound_peak(sizes)
        peaks = {traced: trial.bound_bytes for traced, trial in self.traced.items()}
        nearest = sorted(peaks, key=lambda traced: abs(peaks[traced] - self._usable + self._margin))[: DEGREE + 1]
        return interpolate(nearest, [peaks[traced] for traced in nearest], value)

    def _estimate_fits(self, number: int) -> bool:
        """Tell whether a value fits by its estimated tape, or by its trace where it has one."""
        value = self._grid.value(number)
        if value in self.tried:
            return self.tried[value]
        estimated = self._tapes.estimate(value)
        assert estimated is not None
        replayed = next(trial.prediction for trial in self.traced.values() if trial.prediction is not None)
        return self._fits(*estimated, replayed.replay(*estimated))


def require_gpu(run: ResolvedRun) -> Gpu:
    """Return the card of a run that has one."""
    assert run.gpu is not None, "a search is for a card"
    return run.gpu


def _find_range(run: ResolvedRun, quantity: str, predictor: Predictor) -> tuple[int, int]:
    """Return the value to start at and the largest one to try."""
    if quantity == "rank":
        return _find_rank(run), _MOST_RANK
    if quantity == "batch-size":
        return run.recipe.batch_size, _MOST
    own = {"prompt-len": find_prompt_len(run.recipe), "new-tokens": run.recipe.new_tokens}
    if (quantity in own) is not run.workload.generates:
        known = "prompt-len or new-tokens" if run.workload.generates else "seq-len"
        raise UsageError(f"`fit={quantity}` has no effect on the workload {run.workload.name}; use {known}.")
    if quantity in own:
        longest = predictor.find_longest_sequence(run)
        most = _MOST if quantity == "prompt-len" else predictor.find_most_new_tokens(run)
        other = sum(own.values()) - own[quantity]
        return min(own[quantity], most), most if longest is None else min(most, longest - other)
    try:
        longest = predictor.resolve_recipe(run.with_request(set_value(run.request, Quantity.SEQ_LEN, _MOST))).seq_len
    except NotTraceableError as error:
        raise UnsupportedModelError(f"no sequence length was searched: {one_line(error, 300)}; drop `fit`.") from error
    if longest is None:
        raise UsageError(
            "`fit=seq-len`: the model takes no tokens, so that it has no sequence length; use `fit=batch-size`."
        )
    return run.recipe.seq_len or 1, longest


def _format_bounds(tried: Mapping[int, bool]) -> str:
    """Return which values are known to fit and which not, in words."""
    fitting = [value for value, fits in tried.items() if fits]
    failing = [value for value, fits in tried.items() if not fits]
    parts = [f"{max(fitting):,} fits"] if fitting else []
    parts += [f"{min(failing):,} does not"] if failing else []
    return f" ({', '.join(parts)})" if parts else ""
