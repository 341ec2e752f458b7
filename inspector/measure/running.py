"""Run the steps of a recipe for real: the model of the trace, its batch, its optimizer and its step, on any device.

`run_steps` knows nothing of CUDA, so that the CPU can run it too; `Watch` reads the figures of the CUDA
allocator meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from inspector.compat.torch import memory_snapshot
from inspector.measure.loading import load_model
from inspector.measure.quantized import load_quantized_model
from inspector.model.adapter.butterfly import stand_in_for_extension
from inspector.model.build import BuiltModel
from inspector.model.census import assign_roles, count_base
from inspector.records.memory import MemoryPhase
from inspector.records.recipe import Recipe
from inspector.records.tape import Phase
from inspector.workloads.base import Workload, base_model
from inspector.workloads.inputs import make_item, map_tensors
from inspector.workloads.quantized_load import is_quantized

__all__ = ["Watch", "Watcher", "choose_attention_kernel", "make_real_batch", "run_steps"]

_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


class Watcher(Protocol):
    """What is called when a phase begins, and when the steps are over while batch and optimizer are still alive."""

    def enter(self, phase: Phase, step: int) -> None:
        """Take note that a phase begins."""

    def close(self) -> None:
        """Take note that the last phase is over."""


class Watch:
    """The figures of torch.cuda for each phase: peaks since its start, and what is allocated and reserved at its end.

    A phase that comes several times in a step (gradient accumulation) has the largest peak and the last end, as in the
    prediction. Where the phases are not as `expected`, `history` is what the allocator recorded of itself until the
    steps were over: the signed sizes of allocations and frees.
    """

    def __init__(self, device: torch.device, expected: Sequence[MemoryPhase]) -> None:
        self.history: Sequence[int] = ()
        self._device = device
        self._expected = tuple(expected)
        self._current: tuple[Phase, int] | None = None
        self._phases: dict[tuple[Phase, int], MemoryPhase] = {}

    def enter(self, phase: Phase, step: int) -> None:
        """Note what the phase before took and let the peaks start anew."""
        self._note()
        self._current = (phase, step)

    def close(self) -> None:
        """Note what the last phase took, and read the history where a figure differs."""
        self._note()
        if self.phases != self._expected:
            self.history = _list_recorded_sizes(self._device)

    def _note(self) -> None:
        """Store the figures of the phase that ends, and reset torch's peaks."""
        cuda = torch.cuda
        if self._current is not None:
            phase, step = self._current
            before = self._phases.get(self._current)
            self._phases[self._current] = MemoryPhase(
                name=phase,
                step=step,
                end_allocated_bytes=cuda.memory_allocated(self._device),
                peak_allocated_bytes=max(
                    cuda.max_memory_allocated(self._device), before.peak_allocated_bytes if before else 0
                ),
                end_reserved_bytes=cuda.memory_reserved(self._device),
                peak_reserved_bytes=max(
                    cuda.max_memory_reserved(self._device), before.peak_reserved_bytes if before else 0
                ),
            )
        self._current = None
        cuda.reset_peak_memory_stats(self._device)

    @property
    def phases(self) -> tuple[MemoryPhase, ...]:
        """Return the phases in the order in which they began first."""
        return tuple(self._phases.values())


def run_steps(workload: Workload, built: BuiltModel, recipe: Recipe, device: torch.device, watcher: Watcher) -> None:
    """Load a model on meta onto `device` and run the steps of a resolved `recipe`.

    The model stays there; a quantized one is made anew, by the libraries themselves.
    """
    watcher.enter(Phase.LOAD, 0)
    model: Any = built.model
    if is_quantized(base_model(model)):
        model = load_quantized_model(built, device)
        if workload.info.trains and recipe.loop == "trainer" and device.type == "cuda":
            torch.cuda.empty_cache()  # as Trainer begins with
        workload.prepare(model, recipe)
    else:
        workload.prepare(model, recipe)
        load_model(built, device)
        for companion in workload.find_companions(model).values():
            load_model(BuiltModel(model=companion, roles=assign_roles(companion, count_base(companion))), device)
    loss_sum = workload.make_loss_sum(device, recipe)
    batch = make_real_batch(workload, model, recipe, device)
    state = workload.make_state(model, recipe, on_gpu=True)
    with choose_attention_kernel(recipe), stand_in_for_extension():
        kept = workload.run(model, batch, state, watcher.enter, recipe, loss_sum)
        watcher.close()
        del kept


def _list_recorded_sizes(device: torch.device) -> list[int]:
    """Return the signed sizes that the allocator recorded: a free has that of what was allocated at its address."""
    history = memory_snapshot(device)["device_traces"][device.index or 0]
    sizes: list[int] = []
    alive: dict[int, int] = {}
    for entry in history:
        if entry["action"] == "alloc":
            alive[entry["addr"]] = entry["size"]
            sizes.append(entry["size"])
        elif entry["action"] == "free_completed":
            sizes.append(-alive.pop(entry["addr"], entry["size"]))
    return sizes


def make_real_batch(workload: Workload, model: Any, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Make the batch on the CPU, as a collator does, and move it tensor by tensor."""
    batch = {
        name: make_item(item, lambda part: part.on("cpu")) for name, item in workload.make_inputs(model, recipe).items()
    }
    return {name: map_tensors(item, lambda tensor: tensor.to(device)) for name, item in batch.items()}


def choose_attention_kernel(recipe: Recipe) -> contextlib.AbstractContextManager[None]:
    """Return what keeps sdpa to the kernel of the recipe; `auto` leaves torch its choice."""
    if recipe.attention != "sdpa" or recipe.sdpa_backend == "auto":
        return contextlib.nullcontext()
    return sdpa_kernel(_BACKENDS[recipe.sdpa_backend])
