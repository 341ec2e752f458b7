"""A run that was traced: what it takes, and what that means for cards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from inspector.memory.late_frees import free_late
from inspector.memory.margin import HASH_SEED, NCCL, list_uncertainties
from inspector.memory.recording import Recording
from inspector.memory.replay import Replay, Replays, Requests, list_requests
from inspector.memory.timeline import Summary, Timeline, count_host_bytes, count_kept_activations, fold
from inspector.memory.verdict import find_overhead, find_usable_bytes, judge_fit
from inspector.records.fit import Uncertainty, Verdict
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.steps.ranks import Ddp, DeviceMap, Fsdp1, Zero
from inspector.records.tape import Event
from inspector.resolve import ResolvedRun

if TYPE_CHECKING:
    from inspector.extrapolate import Sizes, TapeTemplate

__all__ = ["Prediction", "count_usable_bytes", "count_work", "list_unknown"]

# So many events of a long tape are put together and replayed in the time in which one is traced.
_REPLAYED_FOR_ONE = 12


class Prediction:
    """A run that was traced: what it takes, and what that means for GPUs.

    `recipe` is the recipe as it runs on the model. `template` is what happens whatever the sizes, `sizes` are those of
    its blocks; `trace` returns both when they are asked for. `find_tape` returns the tape, or what it is given to make
    it of them; where the prediction `is_recalled` it has it. `uncertainty` is what the run's card may lack of the
    memory that a verdict counts on; `replays` are those of a run that makes the same requests of the same allocator.
    All figures are bytes.
    """

    def __init__(
        self,
        run: ResolvedRun,
        recipe: Recipe,
        trace: Callable[[], tuple[TapeTemplate, Sizes]],
        uncertainty: Sequence[Uncertainty] = (),
        *,
        find_tape: Callable[[Callable[[], Sequence[Event]]], Sequence[Event]] = lambda make: make(),
        is_recalled: bool = False,
        replays: Replays | None = None,
    ) -> None:
        self.run = run
        self.recipe = recipe
        self._trace = trace
        self._find_tape = find_tape
        self._is_recalled = is_recalled
        self._watched: Timeline | None = None
        self.overhead = find_overhead(run.gpu)
        self.uncertainty = uncertainty
        self.replays = replays or Replays(
            self.make_requests, run.allocator, descending_addresses=run.platform.takes_newest_segment
        )

    @functools.cached_property
    def _traced(self) -> tuple[TapeTemplate, Sizes]:
        """Return the template and the sizes."""
        return self._trace()

    @property
    def template(self) -> TapeTemplate:
        """Return what happens whatever the sizes."""
        return self._traced[0]

    @property
    def sizes(self) -> Sizes:
        """Return the sizes of the blocks of the template."""
        return self._traced[1]

    def make_requests(self) -> Requests:
        """Return the requests of the run: those of its tape where that is kept, and what makes it would take longer."""
        if self._is_recalled and "_traced" not in vars(self):
            return list_requests(self.tape)
        return self.template.make_requests(self.sizes)

    def replay(self, template: TapeTemplate, sizes: Sizes) -> Replays:
        """Return the replays of another run under the same allocator."""
        return Replays(
            functools.partial(template.make_requests, sizes),
            self.run.allocator,
            descending_addresses=self.run.platform.takes_newest_segment,
        )

    @functools.cached_property
    def tape(self) -> Sequence[Event]:
        """Return the tape of the whole model."""
        return self._find_tape(lambda: self.template.make_tape(self.sizes))

    def fold(self, limit_bytes: int | None = None) -> Timeline:
        """Return everything that the tape tells, on a device with so much memory, None for no end."""
        return fold(
            self.tape,
            self.run.allocator,
            limit_bytes=limit_bytes,
            descending_addresses=self.run.platform.takes_newest_segment,
        )

    def watch_replay(self) -> None:
        """Replay the run without a limit, where that was not done, so that it need not be for a summary again."""
        self.replays.under(None, self._watch_replay)

    def _watch_replay(self) -> Replay:
        """Return the replay without a limit, and note everything that it tells."""
        self._watched = timeline = self.fold()
        return Replay(
            peak_allocated_bytes=timeline.peak_allocated_bytes, peak_reserved_bytes=timeline.peak_reserved_bytes
        )

    def summarize(self) -> Summary:
        """Return what a report says of the run on its card."""
        limit, watched = self.limit_bytes, self._watched
        self._watched = None
        timeline = watched if watched is not None and limit is None else self.fold(limit)
        return Summary(
            timeline=timeline.drop_events(),
            host_bytes=count_host_bytes(self.tape),
            kept_activations=count_kept_activations(self.tape, timeline),
            late=self._find_late_peaks(),
        )

    def _find_late_peaks(self) -> tuple[int, int] | None:
        """Return the peaks where what ends by time ends at the latest, None for runs in which nothing does."""
        if not isinstance(self.run.launch, (Ddp, Fsdp1, Zero)):
            return None
        late = free_late(self.tape)
        if late is None:
            return None
        timeline = fold(late, self.run.allocator, descending_addresses=self.run.platform.takes_newest_segment)
        return timeline.peak_allocated_bytes, timeline.peak_reserved_bytes

    def record(self) -> Recording:
        """Return the run as the report describes it, to be looked at again."""
        return Recording(
            tape=self.tape,
            settings=self.run.allocator,
            limit_bytes=self.limit_bytes,
            descending_addresses=self.run.platform.takes_newest_segment,
        )

    @property
    def peak_allocated_bytes(self) -> int:
        """Return the largest number of bytes allocated at a time."""
        return self.replays.unlimited.peak_allocated_bytes

    @property
    def limit_bytes(self) -> int | None:
        """Return what the allocator has on the run's card, where cached blocks have to be given back for it to fit."""
        if self.run.gpu is None:
            return None
        usable = count_usable_bytes(self.run)
        is_changed = self.replays.unlimited.peak_reserved_bytes > usable
        return usable if is_changed and self.replays.run_under(usable) else None

    @property
    def total_bytes(self) -> int:
        """Return what nvidia-smi would show at the peak on the run's card."""
        return self.replays.under(self.limit_bytes).peak_reserved_bytes + self.overhead.bytes

    def judge(self) -> Verdict:
        """Decide whether the run fits its card."""
        assert self.run.gpu is not None, "a verdict is of a card"
        return judge_fit(
            self.run.gpu,
            self.replays,
            self.run.platform,
            margin_bytes=self.run.margin_bytes,
            uncertainty=self.uncertainty,
            shared=self.run.recipe.vllm_share or 0.0,
        )


def count_usable_bytes(run: ResolvedRun) -> int:
    """Return what the allocator has on the run's card, the margin that was asked for left out."""
    assert run.gpu is not None, "a limit is a card's"
    shared = run.recipe.vllm_share or 0.0
    return find_usable_bytes(run.gpu, find_overhead(run.gpu).bytes, run.margin_bytes or 0, shared=shared)


def list_unknown(run: ResolvedRun, is_ordered_by_hash: Callable[[Request], bool]) -> tuple[Uncertainty, ...]:
    """Return what the run's card may lack of its usable memory, nothing where a margin was asked for.

    `is_ordered_by_hash` tells whether the layers of a model come in an order that differs from process to process.
    """
    if run.gpu is None or run.margin_bytes is not None:
        return ()
    by_seed = (HASH_SEED,) if is_ordered_by_hash(run.request) else ()
    of_ranks = () if run.launch is None or isinstance(run.launch, DeviceMap) else (NCCL,)
    return (*list_uncertainties(run.gpu, find_overhead(run.gpu)), *by_seed, *of_ranks)


def count_work(template: TapeTemplate) -> int:
    """Return how many events a trace on another card would cost: those of the trace, or what their replay is worth.

    Of a generation that was extrapolated from short ones all its steps are replayed.
    """
    whole = template.extrapolation
    if whole.steps is not None:
        return len(whole.steps)
    return max(len(template.traced), len(whole.sources) // _REPLAYED_FOR_ONE)
