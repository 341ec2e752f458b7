"""A GPU, and what lies outside the allocator on it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "DEFAULT_CAPABILITY",
    "Gpu",
    "MemoryFigure",
    "Overhead",
]

# What a step is traced for where no GPU is named, or one without a compute capability: an A100.
DEFAULT_CAPABILITY = (8, 0)


class MemoryFigure(str, enum.Enum):
    """Which total a GPU's `memory_bytes` is.

    TORCH: `torch.cuda.get_device_properties(0).total_memory`, the lowest that was seen; all of it can be allocated.
    DRIVER: what nvidia-smi prints; the driver keeps some of it back from torch.
    NOMINAL: what the card is sold with, by its data sheet, where neither was seen; torch gets less.
    APPROXIMATION: neither was seen for this device; the source says what it is.
    STATED: given by the user.
    """

    TORCH = "torch"
    DRIVER = "driver"
    NOMINAL = "nominal"
    APPROXIMATION = "approximation"
    STATED = "stated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU: its memory, and what decides which kernels run on it.

    `compute_capability` is (major, minor), None where there is no CUDA or nothing is known of the device.
    `multiprocessors` and `threads_per_multiprocessor` are what torch calls `multi_processor_count` and
    `max_threads_per_multi_processor`. `context_bytes` is what a process takes outside torch's allocator, where that was
    measured on this card; `context_at_start` says that it was before any kernel ran. `memory_spread_bytes` is by how
    much the totals that were seen differ, `has_display` whether a desktop may be shown on it. `descending_addresses`
    says where its driver places a new segment of torch's allocator: below the last one or above it, None where that is
    not known. `approximates` says what a verdict on this device assumes, `note` what else one should know. `common`
    marks the cards that a report shows where none is named.
    """

    name: str
    family: str
    aliases: Sequence[str] = ()
    memory_bytes: int
    memory_figure: MemoryFigure
    memory_source: str
    compute_capability: tuple[int, int] | None = None
    multiprocessors: int | None = None
    multiprocessors_source: str | None = None
    threads_per_multiprocessor: int | None = None
    context_bytes: int | None = None
    context_source: str | None = None
    context_at_start: bool = False
    memory_spread_bytes: int | None = None
    has_display: bool = False
    descending_addresses: bool | None = None
    descending_addresses_source: str | None = None
    approximates: str | None = None
    note: str | None = None
    common: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """What a process takes of a GPU outside torch's allocator: the CUDA context and the code of libraries.

    `source` says where it was measured, in words that can follow "the CUDA context is".
    """

    bytes: int
    source: str
