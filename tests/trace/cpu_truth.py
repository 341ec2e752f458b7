"""What a real training step allocates on the CPU, as torch's profiler reports it: no mode, no hook, real tensors.

The profiler reports every allocation and free of the CPU allocator with its size. That is the ground truth which the
meta tape is held against, event by event, where CUDA's rules are not in force.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from inspector.trace.platform import Platform, installed_torch
from inspector.trace.step import plain_steps
from inspector.trace.tracer import Tracer
from inspector.training_records import Category, EventKind

# Scalars and step counters: some of them are CPU tensors on any device, and none of them matters for memory.
SMALLEST_BYTES = 64
# The random state that a checkpoint keeps is a CPU tensor on any device.
RANDOM_STATE_BYTES = torch.get_rng_state().numel()
# Kernels of the CPU that take memory of their own, as CUDA's do elsewhere: what they allocate beside their outputs is
# theirs (ReduceOps.cpp casts the input of cumsum, Embedding.cpp copies indices that are not contiguous, forward and
# backward, layer_norm_kernel.cpp keeps partial sums for each thread, TensorAdvancedIndexing.cpp counts for nonzero).
CPU_KERNELS = (
    "aten::cumsum",
    "aten::embedding",
    "aten::embedding_dense_backward",
    "aten::native_layer_norm_backward",
    "aten::nonzero",
)

Build = Callable[[str], tuple[nn.Module, dict[str, torch.Tensor]]]


def real_step(build: Build) -> tuple[list[int], list[bool]]:
    """Return the signed sizes of all allocations and frees of a real step on the CPU, the second of two.

    Beside each stands whether it happened inside one of `CPU_KERNELS`.
    """
    model, batch = build("cpu")
    optimizer = torch.optim.AdamW(trained(model), foreach=True)
    plain_steps(model, batch, optimizer, lambda _phase, _step: None, steps=1)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        plain_steps(model, batch, optimizer, lambda _phase, _step: None, steps=1)
    assert recorded.profiler is not None
    results: Any = recorded.profiler.kineto_results
    kernels = [(event.start_ns(), event.end_ns()) for event in results.events() if event.name() in CPU_KERNELS]
    events = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    events = [(when, size) for when, size in sorted(events, key=lambda event: event[0]) if relevant(size)]
    inside = [any(start <= when <= end for start, end in kernels) for when, _ in events]
    return [size for _, size in events], inside


def meta_step(build: Build) -> list[int]:
    """Return the same of a step on meta, without CUDA's rules."""
    model, batch = build("meta")
    optimizer = torch.optim.AdamW(trained(model), foreach=True)
    tracer = Tracer(Platform(torch_version=installed_torch()), on_cuda=False)
    tracer.hold((*model.parameters(), *model.buffers()), Category.WEIGHTS)
    tracer.hold(batch.values(), Category.INPUTS)
    for name, tensor in build("cpu")[1].items():
        tracer.shadows.set(batch[name], tensor)
    with tracer:
        plain_steps(model, batch, optimizer, tracer.enter, steps=2)
    second = (event for event in tracer.tape() if event.step == 2)
    sizes = (event.bytes if event.kind is EventKind.ALLOCATE else -event.bytes for event in second)
    return [size for size in sizes if relevant(size)]


def trained(model: nn.Module) -> Iterable[nn.Parameter]:
    """Return the parameters that train."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def relevant(size: int) -> bool:
    """Tell whether a size is neither a scalar's nor a random state's."""
    return abs(size) > SMALLEST_BYTES and abs(size) != RANDOM_STATE_BYTES
