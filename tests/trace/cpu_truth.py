"""What a real training step allocates on the CPU, as torch's profiler reports it: no mode, no hook, real tensors.

The profiler reports every allocation and free of the CPU allocator with its size. That is the ground truth which the
meta tape is held against, event by event, where CUDA's rules are not in force.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from inspector.records import Category, EventKind
from inspector.trace.platform import Platform, installed_torch
from inspector.trace.step import plain_steps
from inspector.trace.tracer import Tracer

# Scalars, step counters and the like: on meta some of them are CPU tensors, and none of them matters for memory.
SMALLEST_BYTES = 64
# Sizes of what the CPU makes and a GPU does not: the random state that a checkpoint keeps is a CPU tensor everywhere.
RANDOM_STATE_BYTES = torch.get_rng_state().numel()


Build = Callable[[str], tuple[nn.Module, dict[str, torch.Tensor]]]


def real_step(build: Build, optimizer: Callable[..., torch.optim.Optimizer]) -> list[int]:
    """Return the signed sizes of all allocations and frees of the second of two real steps on the CPU."""
    model, batch = build("cpu")
    used = optimizer(parameter for parameter in model.parameters() if parameter.requires_grad)
    plain_steps(model, batch, used, lambda _phase, _step: None, steps=1)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        plain_steps(model, batch, used, lambda _phase, _step: None, steps=1)
    assert recorded.profiler is not None
    results: Any = recorded.profiler.kineto_results
    assert results is not None
    events = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    return _relevant(size for _, size in sorted(events, key=lambda event: event[0]))


def meta_step(build: Build, optimizer: Callable[..., torch.optim.Optimizer]) -> list[int]:
    """Return the same of the second step on meta, without CUDA's rules."""
    model, batch = build("meta")
    used = optimizer(parameter for parameter in model.parameters() if parameter.requires_grad)
    tracer = Tracer(Platform(torch_version=installed_torch()), on_cuda=False)
    tracer.hold((*model.parameters(), *model.buffers()), Category.WEIGHTS)
    tracer.hold(batch.values(), Category.INPUTS)
    for name, tensor in build("cpu")[1].items():
        tracer.shadows.set(batch[name], tensor)
    with tracer:
        plain_steps(model, batch, used, tracer.enter, steps=2)
    second = [event for event in tracer.tape() if event.step == 2]
    return _relevant(event.bytes if event.kind is EventKind.ALLOCATE else -event.bytes for event in second)


def _relevant(sizes: Any) -> list[int]:
    """Leave out scalars and random states."""
    return [size for size in sizes if abs(size) > SMALLEST_BYTES and abs(size) != RANDOM_STATE_BYTES]
