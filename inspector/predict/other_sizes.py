"""Which part of a step has to be traced again at another batch size, sequence length, attention or checkpointing.

Its first passes: the update, and later passes, follow from them and from a step of another size that was traced to its
end (`extrapolate.updates`). Where they do not, the whole step is traced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from inspector.predict.run_keys import Key, make_key_of_updates, make_key_without_optimizer
from inspector.records.run import Traced
from inspector.resolve import ResolvedRun

if TYPE_CHECKING:
    from inspector.extrapolate import Updates

__all__ = ["OtherSizes"]


class OtherSizes:
    """The traces of runs of one model that differ in size; `trace` makes one, on a model of a depth."""

    def __init__(self, trace: Callable[..., Traced]) -> None:
        self._trace = trace
        self._passes: dict[tuple[Key, int | None], Traced] = {}
        # The first run of each that was traced to its end, with the parameters that it gives no gradient.
        self._whole: dict[tuple[Key, int | None], tuple[Updates, AbstractSet[str]]] = {}

    def knows_passes(self, run: ResolvedRun, added_periods: int | None) -> bool:
        """Tell whether the first passes of a run were traced, before whatever optimizer."""
        return (make_key_without_optimizer(run), added_periods) in self._passes

    def keep_passes(self, run: ResolvedRun, added_periods: int | None, passes: Traced) -> None:
        """Keep the first passes of a run that was traced to its end: another optimizer's are the same."""
        self._passes.setdefault((make_key_without_optimizer(run), added_periods), passes)

    def trace_passes(self, run: ResolvedRun, added_periods: int | None) -> Traced:
        """Trace the phases that depend on sizes, the same before any optimizer, on a model of a depth."""
        key = make_key_without_optimizer(run), added_periods
        if key not in self._passes:
            self._passes[key] = self._trace(run, added_periods, passes_alone=True)
        asked = run.recipe
        passes = self._passes[key]
        recipe = dataclasses.replace(passes.recipe, optimizer=asked.optimizer, optim_args=asked.optim_args)
        return dataclasses.replace(passes, recipe=recipe)

    def trace(self, run: ResolvedRun, added_periods: int | None) -> Traced:
        """Trace a run to its end, or its first passes where what is known of another size says how they go on."""
        from inspector.extrapolate import Updates  # loads numpy, which what is kept does without

        key = make_key_of_updates(run), added_periods
        if key in self._whole:
            passes, (updates, idle) = self.trace_passes(run, added_periods), self._whole[key]
            tape = updates.complete(passes.tape)
            if tape is not None:
                return dataclasses.replace(passes, tape=tape, idle=idle)
        traced = self._trace(run, added_periods)
        self._whole.setdefault(key, (Updates(traced.tape), traced.idle))
        return traced
