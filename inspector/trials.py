"""One model, many recipes: each traced on a model that is built anew from the files that were read once.

A trace changes its model, and building one on meta is quick beside it. A trial that was made before is not made again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from inspector.fit.verdict import overhead, verdict
from inspector.fit_records import Gpu, Verdict
from inspector.memory.allocator_settings import AllocatorSettings
from inspector.memory.timeline import Timeline, fold
from inspector.model.counting import count_model
from inspector.quiet import quietly
from inspector.recipes import allocator_settings, checked
from inspector.records import Request, SourceFiles
from inspector.trace.training import NotTraceableError, platform_of, resolved, trace_training
from inspector.training_records import Event, Recipe

__all__ = ["Progress", "Trial", "Trials"]

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A traced recipe: what it takes, and what it means for GPUs. `descending` is the order of addresses to replay."""

    recipe: Recipe
    tape: Sequence[Event]
    timeline: Timeline
    settings: AllocatorSettings
    descending: bool
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        """Return what nvidia-smi would show at the peak."""
        return self.timeline.peak_reserved_bytes + self.overhead_bytes

    def on(self, gpu: Gpu) -> Verdict:
        """Decide whether the step runs on a GPU."""
        return verdict(gpu, self.tape, self.timeline, self.settings, descending_addresses=self.descending)


class Trials:
    """Traces requests that differ in recipe, adapter or form of the weights, for the kernels of one GPU."""

    def __init__(self, files: SourceFiles | None, gpu: Gpu | None) -> None:
        # What is stored is compared with the model once, by the report, not with every model that is built here.
        self._files = None if files is None else dataclasses.replace(files, checkpoint=None)
        self._gpu = gpu
        self._made: dict[str, Trial] = {}

    @property
    def count(self) -> int:
        """Return how many traces were made."""
        return len(self._made)

    def knows(self, request: Request) -> bool:
        """Tell whether a trial of this request was made before."""
        return _key(request) in self._made

    def resolved(self, request: Request) -> Recipe:
        """Return the recipe as it runs on the model, without a trace."""
        with quietly():
            return resolved(self._model(request), checked(request.recipe))

    def run(self, request: Request) -> Trial:
        """Trace a request; raise what the model stage and the trace stage raise."""
        key = _key(request)
        if key not in self._made:
            self._made[key] = self._traced(request)
        return self._made[key]

    def _traced(self, request: Request) -> Trial:
        """Build the model and trace its step."""
        settings, recipe = allocator_settings(checked(request.recipe), os.environ)
        platform = platform_of(self._gpu)
        model = self._model(request)
        with quietly():
            recipe = resolved(model, recipe)
            tape = trace_training(model, recipe, platform)
        return Trial(
            recipe=recipe,
            tape=tape,
            timeline=fold(tape, settings, descending_addresses=platform.takes_lowest_address),
            settings=settings,
            descending=platform.takes_lowest_address,
            overhead_bytes=overhead(self._gpu).bytes,
        )

    def _model(self, request: Request) -> Any:
        """Return the model of a request as nobody has used it yet."""
        model = count_model(request, self._files).trainable
        if model is None:
            raise NotTraceableError("the step of a live model is not traced")
        return model


def _key(request: Request) -> str:
    """Return what two requests of one inspection are equal by; an adapter of the Python API has no equality."""
    return repr(dataclasses.replace(request, model=None))
