"""What is not known of a card: memory that a verdict counts on and that a run may not find there.

A verdict takes the card as it was seen: its memory as torch reported it, a CUDA context that was measured somewhere.
Each of the items here says by how much the card at hand may be worse, from the spread of what was seen. Where what a
step leaves free is less than their sum, the verdict is `tight`, and searches and plans keep the sum free. Whoever knows
the card better says how much to keep free (`margin`), and nothing is added to that.

One item is an allowance and no measurement: what a desktop takes of a card that shows one. Nothing here covers a second
job on the card, or kernels whose memory no rule knows (`RunMemory.not_accounted`).
"""

from __future__ import annotations

from collections.abc import Iterator

from inspector.hardware.catalogue import catalogue
from inspector.records.fit import Uncertainty
from inspector.records.hardware import Gpu, MemoryFigure, Overhead

__all__ = ["DESKTOP_BYTES", "HASH_SEED", "NCCL", "list_uncertainties"]

_MIB = 2**20
# Frames of a display of 4K pixels take 32 MiB each, a compositor and its windows keep a dozen of them.
DESKTOP_BYTES = 512 * _MIB
# A T4's context grew from 104.875 MiB, before any kernel ran, to 140.875 MiB after a step of training.
_GROWTH = (36_000, 104_875)
# The most by which what torch reports lies below the memory that a card with GDDR memory is sold with (an A40's 48 GB
# of the driver's 46,068 MiB: `memory.verdict`).
_STATED_BYTES = 652 * _MIB

# What NCCL takes for one communicator on one GPU is decided at run time by channels, algorithms and links: 544 MB for
# two ranks and 688 MB for more were seen on A100s with NVLink (NCCL issue 964), 1.06 GB on eight H100s (1685), and at
# most 1.6 GB (864). It lies outside torch's allocator.
NCCL = Uncertainty(
    what="NCCL",
    bytes=1_600_000_000,
    source="buffers of a communicator, outside torch's allocator: 0.5 to 1.6 GB were reported (NCCL issues 864, 964)",
)
HASH_SEED = Uncertainty(
    what="order of layer types",
    bytes=2 * _MIB,
    source="it follows PYTHONHASHSEED, and moves what is reserved by a segment",
)


def list_uncertainties(gpu: Gpu, overhead: Overhead) -> Iterator[Uncertainty]:
    """Yield what may be missing of the usable memory of a card whose context is taken to be `overhead`."""
    missing = _bound_context(gpu, overhead) - overhead.bytes
    if missing > 0:
        was = "measured before any kernel ran" if gpu.context_bytes is not None else "not measured on this card"
        yield Uncertainty(what="CUDA context", bytes=missing, source=f"{was}; at most the largest that was seen")
    if gpu.memory_figure is MemoryFigure.STATED:
        source = "a size that is stated may be the card's nominal one, of which torch gets less"
        yield Uncertainty(what="driver", bytes=_STATED_BYTES, source=source)
    elif gpu.memory_figure is MemoryFigure.TORCH:
        spread, whose = gpu.memory_spread_bytes, "this card"
        if spread is None:
            spread, whose = max(
                (other.memory_spread_bytes, f"the {other.name}")
                for other in catalogue()
                if other.memory_spread_bytes is not None
            )
        source = f"from driver to driver what torch gets of {whose} was seen to differ by so much"
        yield Uncertainty(what="driver", bytes=spread, source=source)
    if gpu.has_display:
        yield Uncertainty(what="desktop", bytes=DESKTOP_BYTES, source="an allowance, where this card shows one")


def _bound_context(gpu: Gpu, overhead: Overhead) -> int:
    """Return the most that a context is taken to be on a card, in bytes."""
    if gpu.context_bytes is None:
        return max(other.context_bytes for other in catalogue() if other.context_bytes is not None)
    growth, start = _GROWTH
    return gpu.context_bytes + (gpu.context_bytes * growth // start if gpu.context_at_start else 0)
