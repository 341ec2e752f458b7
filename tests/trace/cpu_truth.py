"""What a real training step allocates on the CPU, as torch's profiler reports it: no mode, no hook, real tensors.

The profiler reports every allocation and free of the CPU allocator with its size. That is the ground truth which the
meta tape is held against, event by event, where CUDA's rules are not in force.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from inspector.compat.numbers import find_number
from inspector.compat.torch import tree_leaves
from inspector.hardware.platform import Platform, find_installed_torch
from inspector.records.tape import Category, Event, EventKind
from inspector.trace.rules.any_device import treat_meta_as_device
from inspector.trace.rules.assumed import find_byte_patches
from inspector.trace.rules.moe_routing import loops_over_experts
from inspector.trace.rules.token_choice import see_made_tensors
from inspector.trace.tracer import Tracer
from inspector.workloads.training.loops import run_plain_steps

# Scalars and step counters: some of them are CPU tensors on any device, and none of them matters for memory.
SMALLEST_BYTES = 64
# The random state that a checkpoint keeps is a CPU tensor on any device.
RANDOM_STATE_BYTES = torch.get_rng_state().numel()
# Kernels of the CPU that take memory of their own, as CUDA's do elsewhere: what they allocate beside their outputs is
# theirs (ReduceOps.cpp casts the input of cumsum, Embedding.cpp copies indices that are not contiguous, forward and
# backward, layer_norm_kernel.cpp keeps partial sums for each thread and copies what is not contiguous, Sorting.cpp
# makes indices to sort, TensorAdvancedIndexing.cpp counts for nonzero, and oneDNN brings images and weights into
# layouts of its own).
CPU_KERNELS = (
    "aten::cumsum",
    "aten::embedding",
    "aten::embedding_dense_backward",
    "aten::native_layer_norm",
    "aten::native_layer_norm_backward",
    "aten::nonzero",
    "aten::sort",
    "aten::mkldnn_convolution",
    "aten::convolution_backward",
)

Build = Callable[[str], tuple[nn.Module, dict[str, torch.Tensor | bool]]]
Optimize = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return AdamW as it runs on CUDA."""
    return torch.optim.AdamW(parameters, foreach=True)


def real_step(build: Build, optimize: Optimize = adamw, kernels: tuple[str, ...] = ()) -> tuple[list[int], list[bool]]:
    """Return the signed sizes of all allocations and frees of a real step on the CPU, the second of two.

    Beside each stands whether it happened inside one of `CPU_KERNELS` or of `kernels`.
    """
    model, batch = build("cpu")
    optimizer = optimize(trained(model))
    run_plain_steps(model, batch, optimizer, lambda _phase, _step: None, steps=1)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run_plain_steps(model, batch, optimizer, lambda _phase, _step: None, steps=1)
    return profiled_events(recorded, kernels)


def profiled_events(recorded: profile, kernels: tuple[str, ...] = ()) -> tuple[list[int], list[bool]]:
    """Return the signed sizes of all allocations and frees of a profile, and which were inside kernels."""
    assert recorded.profiler is not None
    results: Any = recorded.profiler.kineto_results
    names = (*CPU_KERNELS, *kernels)
    calls = [(event.start_ns(), event.end_ns()) for event in results.events() if event.name() in names]
    events = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    events = [(when, size) for when, size in sorted(events, key=lambda event: event[0]) if relevant(size)]
    inside = [any(start <= when <= end for start, end in calls) for when, _ in events]
    return [size for _, size in events], inside


def assert_aligned(real: list[int], inside: list[bool], meta: list[int]) -> None:
    """Compare both event by event; only what the CPU's own kernels take may be missing on meta."""
    skipped = {0}  # how many events of the kernels may have been passed over so far: every way to align both
    for index, size in enumerate(real):
        taken = {count for count in skipped if meta[index - count : index - count + 1] == [size]}
        passed = {count + 1 for count in skipped} if inside[index] else set()
        assert taken | passed, f"the CPU has {size} at event {index}, meta has {_around(meta, index, skipped)}"
        skipped = taken | passed
    assert len(real) - len(meta) in skipped, f"only on meta: {meta[len(real) - max(skipped) :]}"


def _around(meta: list[int], index: int, skipped: set[int]) -> list[int]:
    """Return the events of meta that could be the one at `index`."""
    return meta[index - max(skipped) : index - min(skipped) + 1]


def meta_step(
    build: Build,
    optimize: Optimize = adamw,
    values: Mapping[str, torch.Tensor | bool] | None = None,
    steps: tuple[int, ...] = (2,),
    platform: Platform | None = None,
) -> list[int]:
    """Return the same of steps on meta, without CUDA's rules; `values` are those of inputs that control flow reads.

    With a `platform` it is what its kernels take, all events of it.
    """
    model, batch = build("meta")
    optimizer = optimize(trained(model))
    balances = loops_over_experts(model)
    has_images = "input_ids" in batch and not {"pixel_values", "pixel_values_videos", "input_features"}.isdisjoint(
        batch
    )
    tracer = Tracer(
        platform or Platform(torch_version=find_installed_torch()),
        on_cuda=platform is not None,
        balances_experts=balances,
        holds_all=has_images,
        patches=find_byte_patches(model),
    )
    tracer.hold((*model.parameters(), *model.buffers()), Category.WEIGHTS)
    tracer.hold((item for item in tree_leaves(batch) if isinstance(item, torch.Tensor)), Category.INPUTS)
    for buffer in model.buffers():
        if (number := find_number(buffer)) is not None:
            tracer.shadows.set(buffer, number.clone())
    for name, value in (values or {}).items():
        key = batch[name]
        if isinstance(key, torch.Tensor) and isinstance(value, torch.Tensor):
            tracer.shadows.set(key, value)
    matches = any(isinstance(item, list) for item in batch.values())
    made = see_made_tensors(tracer.see_made) if has_images or matches else contextlib.nullcontext()
    with treat_meta_as_device(), made, tracer:
        run_plain_steps(model, batch, optimizer, tracer.enter, steps=2)
    tape = [event for event in tracer.tape() if event.step in steps]
    return tape_events(tape) if platform is None else list_sizes(tape)


def tape_events(tape: Iterable[Event]) -> list[int]:
    """Return the signed sizes of the events of a tape that matter."""
    return [size for size in list_sizes(tape) if relevant(size)]


def list_sizes(tape: Iterable[Event]) -> list[int]:
    """Return the signed sizes of all events of a tape."""
    return [event.bytes if event.kind is EventKind.ALLOCATE else -event.bytes for event in tape]


def trained(model: nn.Module) -> Iterable[nn.Parameter]:
    """Return the parameters that train."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def relevant(size: int) -> bool:
    """Tell whether a size is neither a scalar's nor a random state's."""
    return abs(size) > SMALLEST_BYTES and abs(size) != RANDOM_STATE_BYTES
