"""One model, many recipes: each traced on a model that is built anew from the files that were read once.

A trace changes its model, so each has a copy. Of a deep model two shallow ones are traced, whose tapes give that of the
deep one (`fit.layers`); the second one only where something in the tape of the first was not seen before. Models whose
layers do not repeat are traced whole. A trial that was made before is not made again.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn

from inspector.fit.layers import Deepening, Layers
from inspector.fit.verdict import overhead, verdict
from inspector.fit_records import Gpu, Verdict
from inspector.memory.allocator_settings import AllocatorSettings
from inspector.memory.replay import Replays
from inspector.memory.timeline import Timeline, fold
from inspector.model.counting import build_shallow, build_trainable
from inspector.quiet import quietly
from inspector.recipes import allocator_settings, checked
from inspector.records import Request, SourceFiles
from inspector.trace.platform import Platform
from inspector.trace.training import NotTraceableError, platform_of, resolved, trace_training
from inspector.training_records import Event, Recipe

__all__ = ["Progress", "Trial", "Trials"]

Progress = Callable[[str], None]

# How many depths are tried: in some models what two layers show is not yet what all do.
_DEPTHS = 2


class Trial:
    """A traced recipe: what it takes, and what it means for GPUs.

    `traced` is the tape of the model that ran, `deepening` how it becomes that of the whole model, None where that ran.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        traced: Sequence[Event],
        deepening: Deepening | None,
        settings: AllocatorSettings,
        descending: bool,
        overhead_bytes: int,
    ) -> None:
        self.recipe = recipe
        self.traced = traced
        self.deepening = deepening
        self._settings = settings
        self._descending = descending
        self.overhead_bytes = overhead_bytes
        self.replays = self.replays_of(traced)

    def replays_of(self, traced: Sequence[Event]) -> Replays:
        """Return the replays of a tape like the one that was traced, as it is on the whole model."""
        if self.deepening is None:
            return Replays.of(traced, self._settings, descending_addresses=self._descending)
        wanted = functools.partial(self.deepening.requests, traced)
        return Replays(wanted, self._settings, descending_addresses=self._descending)

    @functools.cached_property
    def tape(self) -> Sequence[Event]:
        """Return the tape of the whole model; module paths hold the numbers of the layers that ran."""
        return self.traced if self.deepening is None else self.deepening.tape(self.traced)

    @functools.cached_property
    def timeline(self) -> Timeline:
        """Return the tape as bytes over time."""
        return fold(self.tape, self._settings, descending_addresses=self._descending)

    @property
    def peak_allocated_bytes(self) -> int:
        """Return the largest number of bytes allocated at a time."""
        return self.replays.unlimited.peak_allocated_bytes

    @property
    def total_bytes(self) -> int:
        """Return what nvidia-smi would show at the peak."""
        return self.replays.unlimited.peak_reserved_bytes + self.overhead_bytes

    def on(self, gpu: Gpu) -> Verdict:
        """Decide whether the step runs on a GPU."""
        return verdict(gpu, self.replays)


class Trials:
    """Traces requests that differ in recipe, adapter or form of the weights, for the kernels of one GPU."""

    def __init__(self, files: SourceFiles | None, gpu: Gpu | None) -> None:
        # What is stored is compared with the model once, by the report, not with every model that is built here.
        self._files = None if files is None else dataclasses.replace(files, checkpoint=None)
        self._gpu = gpu
        self._platform = platform_of(gpu)
        self._made: dict[str, Trial] = {}
        self._models: dict[tuple[str, int], tuple[nn.Module, int]] = {}
        self._layers = Layers()

    def knows(self, request: Request) -> bool:
        """Tell whether a trial of this request was made before."""
        return _key(request) in self._made

    def resolved(self, request: Request) -> Recipe:
        """Return the recipe as it runs on the model, without a trace."""
        with quietly():
            return resolved(self._model(request)[0], checked(request.recipe))

    def run(self, request: Request) -> Trial:
        """Trace a request; raise what the model stage and the trace stage raise."""
        key = _key(request)
        if key not in self._made:
            self._made[key] = self._traced(request)
        return self._made[key]

    def _traced(self, request: Request) -> Trial:
        """Trace the step on a shallow model where that says what the whole one does."""
        settings, recipe = allocator_settings(checked(request.recipe), os.environ)
        found = self._foretold(request, recipe)
        if found is None:
            found = (*_tape(build_trainable(request, self._files), recipe, self._platform), None)
        recipe, tape, deepening = found
        return Trial(
            recipe=recipe,
            traced=tape,
            deepening=deepening,
            settings=settings,
            descending=self._platform.takes_lowest_address,
            overhead_bytes=overhead(self._gpu).bytes,
        )

    def _foretold(self, request: Request, recipe: Recipe) -> tuple[Recipe, list[Event], Deepening | None] | None:
        """Return the resolved recipe, the tape of a shallow model and what deepens it, None where nothing does."""
        try:
            for more in range(_DEPTHS):
                model, missing = self._model(request, more)
                if missing <= more:
                    return None
                resolved_recipe, shallow = _tape(model, recipe, self._platform)
                deepening = self._layers.deepening(shallow, missing - more)
                if deepening is None:
                    deeper = _tape(self._model(request, more + 1)[0], recipe, self._platform)[1]
                    if self._layers.learn(shallow, deeper):
                        deepening = self._layers.deepening(shallow, missing - more)
                if deepening is not None:
                    return resolved_recipe, shallow, deepening
        except NotTraceableError:
            pass  # what the whole model says is the one to tell
        return None

    def _model(self, request: Request, more: int = 0) -> tuple[nn.Module, int]:
        """Return the shallow model of a request as nobody has used it yet, and how many periods of layers it lacks."""
        key = _key(dataclasses.replace(request, recipe=Recipe())), more
        if key not in self._models:
            made = build_shallow(request, self._files, more)
            if _has_hooks(made[0]):
                return made
            self._models[key] = made
        model, missing = self._models[key]
        return _copied(model), missing


def _has_hooks(model: nn.Module) -> bool:
    """Tell whether gradients go through hooks, which no copy has: OSF projects them."""
    return any(each._backward_hooks or each._post_accumulate_grad_hooks for each in model.parameters())


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy of a model, with the memory that its tensors share or leave unused, and what was written onto them.

    torch copies a tensor of the meta device alone, without what else its memory holds (OFT's rows and columns are two
    views of one tensor), and parameters without their attributes. Packed weights copy themselves.
    """
    memo: dict[int, Any] = {}
    storages: dict[int, UntypedStorage] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if type(tensor) in (Tensor, nn.Parameter) and tensor.is_meta:
            old = tensor.untyped_storage()
            new = storages.setdefault(old._cdata, UntypedStorage(old.nbytes(), device="meta"))
            made = torch.empty(0, dtype=tensor.dtype, device="meta")
            made.set_(new, tensor.storage_offset(), tensor.shape, tensor.stride())
            memo[id(tensor)] = made if type(tensor) is Tensor else nn.Parameter(made, tensor.requires_grad)
    copied = copy.deepcopy(model, memo)
    for original, parameter in zip(model.parameters(), copied.parameters(), strict=True):
        for name, value in vars(original).items():
            if not hasattr(parameter, name):
                setattr(parameter, name, value)
    return copied


def _tape(model: Any, recipe: Recipe, platform: Platform) -> tuple[Recipe, list[Event]]:
    """Trace the step of a model that nobody has used yet."""
    with quietly():
        recipe = resolved(model, recipe)
        return recipe, trace_training(model, recipe, platform)


def _key(request: Request) -> str:
    """Return what two requests of one inspection are equal by; an adapter of the Python API has no equality."""
    return repr(dataclasses.replace(request, model=None))
