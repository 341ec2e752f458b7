"""Record steps of small denoisers on torch's CUDA build: `python -m tests.evidence.stand_in.record_denoisers FILE`.

Needs diffusers. The events are those of two steps, as tests/workloads/diffusion/test_step.py holds them.
"""

from __future__ import annotations

import functools
import gc
import sys

import torch

from inspector.workloads.training.loops import run_plain_steps
from tests.evidence.stand_in.record_kernels import record_events, write_recording
from tests.trace.cpu_truth import adamw, trained
from tests.workloads.diffusion.small_denoisers import ON_CUDA, build, one_timestep


def record_steps(name: str) -> list[int]:
    """Return the signed sizes of all allocations and frees of two steps of a small denoiser."""
    model, batch = build("cuda", **ON_CUDA[name])
    optimizer = adamw(trained(model))
    steps = functools.partial(run_plain_steps, model, batch, optimizer, lambda _phase, _step: None, steps=2)
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()  # each step is the first of its process
    return record_events(steps)


if __name__ == "__main__":
    with one_timestep():
        write_recording(sys.argv[1], "steps", lambda: {name: record_steps(name) for name in ON_CUDA})
