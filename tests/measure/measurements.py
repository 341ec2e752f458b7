"""A measurement made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inspector.records.measurement import Device, Difference, Figures, Measurement
from inspector.records.memory import MemoryPhase
from inspector.records.recipe import Recipe
from inspector.records.tape import Phase, WorkloadInfo

__all__ = ["figures", "measurement"]

GIB = 2**30


def figures(extra: int = 0, process_bytes: int | None = None) -> Figures:
    """Return loading and one forward pass; the forward pass takes `extra` bytes more."""
    phases = [
        MemoryPhase(
            name=name,
            step=step,
            end_allocated_bytes=size * GIB,
            peak_allocated_bytes=size * GIB + more,
            end_reserved_bytes=(size + 1) * GIB,
            peak_reserved_bytes=(size + 1) * GIB,
        )
        for name, step, size, more in ((Phase.LOAD, 0, 1, 0), (Phase.FORWARD, 1, 2, extra))
    ]
    return Figures(phases=phases, process_bytes=process_bytes)


def measurement(
    *,
    extra: int = 0,
    process_bytes: int | None = None,
    differing: Sequence[Difference] = (),
    quantization: Mapping[str, Any] | None = None,
    workload: WorkloadInfo | None = None,
) -> Measurement:
    """Return a measurement of which the forward pass took `extra` bytes more than predicted."""
    return Measurement(
        versions={"inspector": "1.0", "torch": "2.13.0+cu130"},
        gpu=Device(
            name="NVIDIA Test",
            compute_capability=(8, 0),
            multiprocessors=108,
            threads_per_multiprocessor=2048,
            memory_bytes=80 * GIB,
            free_bytes=79 * GIB,
            driver="580.1",
        ),
        model={"id": "a/model", "class": "LlamaForCausalLM", "dtype": "bfloat16"},
        quantization=quantization,
        recipe=Recipe(batch_size=2, padding=True),
        measured=figures(extra, process_bytes),
        predicted=figures(process_bytes=3 * GIB + 100),
        differing=differing,
        differing_count=len(differing),
        workload=workload,
    )
