"""The values of a measurement: the GPU at hand, its allocator's figures phase by phase, and where the tape differs.

Part of the data dictionary, with the same rules as `inspector.records`: field names are JSON keys, sizes are integers
of bytes. docs/explain/measure.md describes the JSON record that is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspector.records.memory import MemoryPhase
from inspector.records.recipe import Recipe
from inspector.records.tape import Phase, WorkloadInfo

__all__ = ["Device", "Difference", "Figures", "Measurement", "RankFigures", "find_first_large"]

# The smallest block of the allocator: scalars and helper kernels, which come and go.
_SMALL_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The GPU that was measured on, as torch and the driver describe it.

    `free_bytes` is what the driver had left before the run, once this process had its context. `descending_addresses`
    says where the driver puts a new segment: below the last one or above it.
    """

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    threads_per_multiprocessor: int
    memory_bytes: int
    free_bytes: int
    descending_addresses: bool = False
    driver: str | None = None
    cuda: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the allocator says of loading and of each phase of each step, measured or predicted.

    `process_bytes` is what nvidia-smi shows for the process when the steps are over, `device_used_bytes` all that is in
    use on the GPU then; both None where they are not known.
    """

    phases: Sequence[MemoryPhase]
    process_bytes: int | None = None
    device_used_bytes: int | None = None

    @property
    def peak_allocated_bytes(self) -> int:
        """Return the largest allocated peak of any phase."""
        return max(phase.peak_allocated_bytes for phase in self.phases)

    @property
    def peak_reserved_bytes(self) -> int:
        """Return the largest reserved peak of any phase."""
        return max(phase.peak_reserved_bytes for phase in self.phases)

    @property
    def end_of_step_allocated_bytes(self) -> int:
        """Return what is allocated when the last step is over."""
        return self.phases[-1].end_allocated_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A place where the allocator's history and the tape part: what each has there until they agree again.

    Sizes are those that were asked for, negative where the memory is given back. `module` and `op` are those of the
    tape at that place; where the tape has nothing there, those of the event before it.
    """

    step: int
    phase: Phase
    module: str
    op: str
    measured: Sequence[int]
    predicted: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFigures:
    """Another rank of the same run beside its prediction, with the first place where its history and its tape part."""

    rank: int
    gpu: Device
    measured: Figures
    predicted: Figures
    differing: Sequence[Difference] = ()
    differing_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run on a GPU beside its prediction.

    `model` and `adapter` are as in a report, `quantization` has its method, source and double_quant where bitsandbytes
    quantizes the base; `config` is that of the model where the bundled catalogue does not have it. `differing` are the
    first places where history and tape part, `differing_count` how many there are. `workload` is what ran, None a
    training step. `autocast_adapter_dtype` is false where an adapter keeps its half precision. Of a rank of several
    `launch` says how they are spread, with its `rank` and whether the others are there (`group`, nccl) or not (fake);
    `others` are the other ranks.
    """

    versions: Mapping[str, str]
    gpu: Device
    model: Mapping[str, Any]
    config: Mapping[str, Any] | None = None
    adapter: Mapping[str, Any] | None = None
    quantization: Mapping[str, Any] | None = None
    recipe: Recipe
    measured: Figures
    predicted: Figures
    differing: Sequence[Difference] = ()
    differing_count: int = 0
    notices: Sequence[str] = ()
    workload: WorkloadInfo | None = None
    autocast_adapter_dtype: bool | None = None
    launch: Mapping[str, Any] | None = None
    others: Sequence[RankFigures] = ()

    @property
    def is_told_by_another(self) -> bool:
        """Tell whether another process has the same to say: rank 0 says it for all ranks that a launcher started."""
        return bool(self.others) and self.launch is not None and self.launch["rank"] != 0

    @property
    def first_large(self) -> Difference | None:
        """Return the first difference with an allocation of more than the smallest block, else the first of all."""
        return find_first_large(self.differing)


def find_first_large(differing: Sequence[Difference]) -> Difference | None:
    """Return the first difference with an allocation of more than the smallest block, else the first of all."""
    large = (
        difference
        for difference in differing
        if max((*difference.measured, *difference.predicted), default=0) > _SMALL_BYTES
    )
    return next(large, differing[0] if differing else None)
