"""Runs whose layers scan: extrapolated from runs in which the loops over positions make few passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, TypeAlias

from inspector.errors import NotTraceableError
from inspector.predict.generation import is_long
from inspector.predict.run_keys import Key, make_key_without_optimizer
from inspector.records.recipe import Recipe, find_prompt_len
from inspector.records.request import Request
from inspector.records.run import Traced
from inspector.records.steps.kernels import Kernels
from inspector.records.steps.ranks import DeviceMap
from inspector.records.tape import Event
from inspector.resolve import ResolvedRun

if TYPE_CHECKING:
    from inspector.extrapolate import Sizes, TapeTemplate

__all__ = ["Scans"]

_Trace: TypeAlias = Callable[[ResolvedRun], tuple[Recipe, "TapeTemplate", "Sizes"]]
# In the first pass there is no state yet, and what the last one makes goes on to no other; those between repeat.
_FEWEST_PASSES = 5
_PIECES = 3
# Shorter loops are traced whole, which takes no longer.
_SHORTEST = 64


class Scans:
    """What is known of loops over positions in the runs of one model."""

    def __init__(self) -> None:
        self._lengths: dict[Key, AbstractSet[int]] = {}

    def note(self, piece: ResolvedRun, traced: Traced) -> None:
        """Note how many passes the loops have in a run that was traced with few."""
        self._lengths[make_key_without_optimizer(piece)] = traced.scan_lengths

    def shortens(self, run: ResolvedRun, has_loops: Callable[[Request], bool]) -> bool:
        """Tell whether loops over positions are to make few passes in a trace; `has_loops` says which models have any.

        The order of what is asked matters: the model is built for the last alone.
        """
        is_whole = run.scan_passes is None and run.request.extrapolate and not is_long(run)
        length = find_prompt_len(run.recipe) if run.workload.generates else run.recipe.seq_len
        is_worth_it = run.recipe.kernels != Kernels.HUB and (length is None or length >= _SHORTEST)
        on_one_card = not isinstance(run.launch, DeviceMap)  # one of a rank, too
        return is_whole and is_worth_it and on_one_card and has_loops(run.request)

    def extrapolate(
        self, run: ResolvedRun, has_loops: Callable[[Request], bool], trace: _Trace
    ) -> tuple[Recipe, ResolvedRun, TapeTemplate] | None:
        """Return the recipe as it runs, one of the runs that were traced, and the whole run by their passes.

        None where no layer scans, and where these do not say what all do. `trace` traces a run with few passes. Raises
        NotTraceableError where the whole tape is too long.
        """
        from inspector.extrapolate.layers import TooManyEventsError  # loads numpy, as in `generation`
        from inspector.extrapolate.positions import extrapolate_positions

        if not self.shortens(run, has_loops):
            return None
        tapes: list[Sequence[Event]] = []
        for passes in range(_FEWEST_PASSES, _FEWEST_PASSES + _PIECES):
            piece = dataclasses.replace(run, scan_passes=passes)
            try:
                recipe, template, sizes = trace(piece)
            except NotTraceableError:
                return None  # what the whole run says is the one to tell
            lengths = self._lengths[make_key_without_optimizer(piece)]
            longer = [length for length in lengths if length > _FEWEST_PASSES]
            if len(longer) != 1 or longer[0] < _SHORTEST:
                return None
            tapes.append(list(template.make_tape(sizes)))
        try:
            whole = extrapolate_positions(tapes, longer[0] - _FEWEST_PASSES)
        except TooManyEventsError as error:
            raise NotTraceableError(str(error)) from error
        return None if whole is None else (recipe, piece, whole)
