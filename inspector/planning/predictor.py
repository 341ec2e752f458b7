"""One model, many recipes: each traced on a model that is built anew from the files that were read once.

A trace changes its model, so each has a copy. Of a deep model two shallow ones are traced, whose tapes give that of the
deep one (`extrapolate.layers`); the second one only where something in the tape of the first was not seen before.
Models whose layers do not repeat are traced whole. Of a step that was traced with another batch or row only the passes
of the first update are traced again (`extrapolate.sizes`), once for all optimizers. A trial that was made before is not
made again.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn

from inspector.compat.torch import accumulate_hooks_of, backward_hooks_of, storage_address
from inspector.extrapolate.layers import Layers
from inspector.extrapolate.sizes import Course, Sizes
from inspector.hardware.platform import Platform
from inspector.memory.allocator.settings import AllocatorSettings
from inspector.memory.replay import Replays
from inspector.memory.verdict import overhead, verdict
from inspector.model.build import build_shallow, build_trainable
from inspector.records.fit import Verdict
from inspector.records.hardware import Gpu
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.source import SourceFiles
from inspector.records.tape import Event
from inspector.runtime.quiet import quietly
from inspector.workloads.checks import allocator_settings, checked
from inspector.workloads.training.trace_ import NotTraceableError, platform_of, resolved, trace_training

__all__ = ["Progress", "Trial", "Trials"]

Progress = Callable[[str], None]

# How many depths are tried: in some models what two layers show is not yet what all do.
_DEPTHS = 2


class Trial:
    """A traced recipe: what it takes, and what it means for GPUs. `sizes` are those of the blocks of its `course`."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        course: Course,
        sizes: Sizes,
        settings: AllocatorSettings,
        descending: bool,
        overhead_bytes: int,
    ) -> None:
        self.recipe = recipe
        self.course = course
        self.sizes = sizes
        self.overhead_bytes = overhead_bytes
        self._settings = settings
        self._descending = descending
        self.replays = self.replays_of(course, sizes)

    def replays_of(self, course: Course, sizes: Sizes) -> Replays:
        """Return the replays of another step under the same allocator."""
        wanted = functools.partial(course.requests, sizes)
        return Replays(wanted, self._settings, descending_addresses=self._descending)

    @functools.cached_property
    def tape(self) -> Sequence[Event]:
        """Return the tape of the whole model; module paths hold the numbers of the layers that ran."""
        return self.course.tape(self.sizes)

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
        # The steps that were traced to their end, by all but batch and row, each with the depth of its model.
        self._courses: dict[str, list[tuple[int | None, Course]]] = {}
        self._passes: dict[tuple[str, int | None], tuple[Recipe, list[Event]]] = {}
        self._layers = Layers()

    def anew(self) -> Trials:
        """Return trials that have traced nothing yet, of the same models."""
        trials = Trials(self._files, self._gpu)
        trials._models = self._models
        return trials

    def knows(self, request: Request) -> bool:
        """Tell whether a trial of this request was made before."""
        return _key(request) in self._made

    def resolved(self, request: Request) -> Recipe:
        """Return the recipe as it runs on the model, without a trace."""
        with quietly():
            return resolved(self._original(request)[0], checked(request.recipe))

    def run(self, request: Request) -> Trial:
        """Trace a request; raise what the model stage and the trace stage raise."""
        key = _key(request)
        if key not in self._made:
            settings, recipe = allocator_settings(checked(request.recipe), os.environ)
            resolved_recipe, course, sizes = self._resized(request, recipe) or self._traced(request, recipe)
            self._made[key] = Trial(
                recipe=resolved_recipe,
                course=course,
                sizes=sizes,
                settings=settings,
                descending=self._platform.takes_lowest_address,
                overhead_bytes=overhead(self._gpu).bytes,
            )
        return self._made[key]

    def known(self, request: Request) -> Trial | None:
        """Return the trial of a request where nothing has to be traced for it."""
        courses = self._courses.get(_without_size(request), ())
        is_known = any((_without_optimizer(request), more) in self._passes for more, _ in courses)
        return self.run(request) if is_known or self.knows(request) else None

    def _resized(self, request: Request, recipe: Recipe) -> tuple[Recipe, Course, Sizes] | None:
        """Trace the passes alone of a step that was traced at another batch or row, None where it runs another way."""
        for more, course in self._courses.get(_without_size(request), ()):
            try:
                resolved_recipe, passes = self._first_passes(request, recipe, more)
            except NotTraceableError:
                continue  # what the whole step says is the one to tell
            sizes = course.sizes_after(passes)
            if sizes is not None:
                resolved_recipe = dataclasses.replace(
                    resolved_recipe, optimizer=recipe.optimizer, optim_args=recipe.optim_args
                )
                return resolved_recipe, course, sizes
        return None

    def _first_passes(self, request: Request, recipe: Recipe, more: int | None) -> tuple[Recipe, list[Event]]:
        """Return the tape of the first passes, which are the same before any optimizer, on the model of a depth."""
        key = _without_optimizer(request), more
        if key not in self._passes:
            self._passes[key] = _tape(self._model(request, more), recipe, self._platform, passes_alone=True)
        return self._passes[key]

    def _traced(self, request: Request, recipe: Recipe) -> tuple[Recipe, Course, Sizes]:
        """Trace the step to its end, on a shallow model where that says what the whole one does."""
        found = self._foretold(request, recipe)
        if found is None:
            resolved_recipe, tape = _tape(self._model(request, None), recipe, self._platform)
            more, course = None, Course(tape, None)
        else:
            resolved_recipe, more, course = found
        self._courses.setdefault(_without_size(request), []).append((more, course))
        return resolved_recipe, course, course.sizes

    def _foretold(self, request: Request, recipe: Recipe) -> tuple[Recipe, int, Course] | None:
        """Return the resolved recipe, the depth of a model that says what the whole one does, and its step's course."""
        try:
            for more in range(_DEPTHS):
                missing = self._original(request, more)[1]
                if missing <= more:
                    return None
                resolved_recipe, shallow = _tape(self._model(request, more), recipe, self._platform)
                deepening = self._layers.deepening(shallow, missing - more)
                if deepening is None:
                    deeper = _tape(self._model(request, more + 1), recipe, self._platform)[1]
                    if self._layers.learn(shallow, deeper):
                        deepening = self._layers.deepening(shallow, missing - more)
                if deepening is not None:
                    return resolved_recipe, more, Course(shallow, deepening)
        except NotTraceableError:
            pass  # what the whole model says is the one to tell
        return None

    def _model(self, request: Request, more: int | None) -> nn.Module:
        """Return the model of a request as nobody has used it yet: shallow, with `more` periods of layers, or whole."""
        if more is None:
            return build_trainable(request, self._files)
        model = self._original(request, more)[0]
        return build_shallow(request, self._files, more)[0] if _has_hooks(model) else _copied(model)

    def _original(self, request: Request, more: int = 0) -> tuple[nn.Module, int]:
        """Return the shallow model of a request, which nobody may change, and how many periods of layers it lacks."""
        key = _key(dataclasses.replace(request, recipe=Recipe())), more
        if key not in self._models:
            self._models[key] = build_shallow(request, self._files, more)
        return self._models[key]


def _has_hooks(model: nn.Module) -> bool:
    """Tell whether gradients go through hooks, which no copy has: OSF projects them."""
    return any(backward_hooks_of(each) or accumulate_hooks_of(each) for each in model.parameters())


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy of a model, with the memory that its tensors share or leave unused, and what was written onto them.

    torch copies a tensor of the meta device alone, without what else its memory holds (OFT's rows and columns are two
    views of one tensor), and parameters without their attributes. Packed weights copy themselves.
    """
    # Each module has eleven dicts of hooks, empty mostly, which take a third of the time where they are copied.
    hooks = (value for module in model.modules() for value in vars(module).values() if type(value) is OrderedDict)
    memo: dict[int, Any] = {id(each): OrderedDict() for each in hooks if not each}
    storages: dict[int, UntypedStorage] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if type(tensor) in (Tensor, nn.Parameter) and tensor.is_meta:
            old = tensor.untyped_storage()
            new = storages.setdefault(storage_address(old), UntypedStorage(old.nbytes(), device="meta"))
            made = torch.empty(0, dtype=tensor.dtype, device="meta")
            made.set_(new, tensor.storage_offset(), tensor.shape, tensor.stride())
            memo[id(tensor)] = made if type(tensor) is Tensor else nn.Parameter(made, tensor.requires_grad)
    copied = copy.deepcopy(model, memo)
    for original, parameter in zip(model.parameters(), copied.parameters(), strict=True):
        for name, value in vars(original).items():
            if not hasattr(parameter, name):
                setattr(parameter, name, value)
    return copied


def _tape(model: Any, recipe: Recipe, platform: Platform, *, passes_alone: bool = False) -> tuple[Recipe, list[Event]]:
    """Trace the step of a model that nobody has used yet, or its first passes."""
    with quietly():
        recipe = resolved(model, recipe)
        return recipe, trace_training(model, recipe, platform, passes_alone=passes_alone)


def _key(request: Request) -> str:
    """Return what two requests of one inspection are equal by; an adapter of the Python API has no equality."""
    return repr(dataclasses.replace(request, model=None))


def _without_size(request: Request) -> str:
    """Return what requests are equal by that differ in batch and row alone."""
    return _key(_with(request, batch_size=1, seq_len=None))


def _without_optimizer(request: Request) -> str:
    """Return what requests are equal by that differ in the optimizer alone."""
    return _key(_with(request, optimizer=Recipe().optimizer, optim_args=None))


def _with(request: Request, **changes: Any) -> Request:
    """Return a request with another recipe."""
    return dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, **changes))
