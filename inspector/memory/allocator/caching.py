"""A simulation of the CUDA caching allocator: which bytes are allocated and reserved after each request.

How torch's native allocator works, and so how this module models it. A request is rounded up (to 512 bytes, unless
`roundup_power2_divisions` says otherwise) and served from one of two pools that never share memory: up to 1 MiB
small, above it large. The smallest free block that is large enough is taken, the first among equals. Where none fits,
CUDA is asked for a segment: 2 MiB for the small pool, 20 MiB for less than 10 MiB, a multiple of 2 MiB for more. What
a block has too much is split off if it is worth keeping: 512 bytes in the small pool, more than 1 MiB in the large
one. A block that is not split is handed out whole and **counts whole** in `allocated_bytes`, so that what was freed
before decides the last bytes of a peak. A freed block merges with its free neighbours inside its segment. A segment
goes back to CUDA only when it is one free block, by `empty_cache` or when memory runs out.

With `expandable_segments` each pool has a range of addresses instead, which is backed by pages of 2 MiB (small) or 20
MiB (large) only as far as needed. Its blocks always split, and best fit compares what a block could grow to.

Sources: c10/cuda/CUDACachingAllocator.cpp as read in shared/cuda-memory-facts.md, section 1; line numbers in square
brackets are those cited there. Verified against the library itself: `libc10_cuda.so` of the PyPI wheel of torch
2.13.0 ran over a stand-in for the CUDA runtime that hands out ascending addresses, and random tapes (both pools, all
settings here, limits that force releases and out-of-memory) gave the same addresses, allocated, reserved and
requested bytes, peaks and number of retries after every event. torch 2.10.0 did, too, in 240 tapes of the settings
that it knows. tests/memory/recorded_allocator keeps the harness and a recording.

Segments get ascending addresses here in the order of their allocation (descending ones on request), and an address is
not used again. CUDA promises neither. For torch 2.13 it hardly matters: of free blocks of equal size it takes the one
in the segment that came first, wherever CUDA placed it (the harness gave the same bytes with descending and with reused
addresses); addresses count only where an expandable pool has several ranges, which takes a limit and releases under it.
torch 2.10 compares addresses [27 :2560], and the driver of a T4 hands out descending ones: tests/evidence/truth holds
reserved peaks that are exact only so.

A block is found again on the stream that it was made on, and on no other: every stream has a pair of pools
(`use_stream`), and what is cached is given back of all of them.

Does not cover: `record_stream`, which holds a freed block back until other streams are done with it, private pools of
CUDA graphs, `garbage_collection_threshold` and memory fractions, and `backend:cudaMallocAsync`.
"""

from __future__ import annotations

from dataclasses import dataclass

from inspector.memory.allocator.expandable import ExpandablePool
from inspector.memory.allocator.pools import Block, Device, Pool, SegmentChange
from inspector.memory.allocator.settings import SMALL_BYTES, AllocatorSettings

__all__ = ["Block", "CachingAllocator", "OutOfMemory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """A request that failed although everything cached was released.

    `needed_bytes` is what CUDA was asked for last, on top of `reserved_bytes`; both are together above the limit.
    """

    requested_bytes: int
    needed_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    limit_bytes: int


class CachingAllocator:
    """The allocator of one device.

    `limit_bytes` is the memory it can reserve, None for no end. `descending_addresses` says where the driver places
    each new segment, which decides ties among free blocks of equal size in torch 2.10.
    """

    def __init__(
        self,
        settings: AllocatorSettings | None = None,
        *,
        limit_bytes: int | None = None,
        descending_addresses: bool = False,
    ) -> None:
        self.settings = AllocatorSettings() if settings is None else settings
        self._device = Device(limit_bytes, descending=descending_addresses)
        self._pools: dict[int, tuple[Pool, Pool]] = {}
        self._rounded_on: dict[int, dict[int, tuple[int, Pool]]] = {}
        self.use_stream(0)
        self.allocated_bytes = 0
        self.requested_bytes = 0
        self.max_allocated_bytes = 0
        self.max_requested_bytes = 0
        self.retry_count = 0

    @property
    def reserved_bytes(self) -> int:
        """What the allocator holds of the device: whole segments, or mapped pages of expandable ones."""
        return self._device.reserved_bytes

    @property
    def max_reserved_bytes(self) -> int:
        """The largest `reserved_bytes` since the start or the last `reset_peaks`."""
        return self._device.max_reserved_bytes

    def use_stream(self, stream: int) -> None:
        """Serve requests on another stream from now on; the first is 0, the default stream."""
        if stream not in self._pools:
            kind = ExpandablePool if self.settings.expandable_segments else Pool
            self._pools[stream] = (
                kind(self._device, self.settings, small=True),
                kind(self._device, self.settings, small=False),
            )
            self._rounded_on[stream] = {}
        self._small, self._large = self._pools[stream]
        self._rounded = self._rounded_on[stream]

    def log_segments(self) -> list[SegmentChange]:
        """Return a list to which every change of the segments is added from now on."""
        self._device.changes = []
        return self._device.changes

    def allocate(self, requested_bytes: int) -> Block | OutOfMemory:
        """Hand out a block for a request of at least one byte, or say that memory ran out."""
        size, pool = self._rounded.get(requested_bytes) or self._round(requested_bytes)
        block = pool.hand_out(size) or self._grow(pool, size)
        if block is None:
            return OutOfMemory(
                requested_bytes=requested_bytes,
                needed_bytes=self._device.refused_bytes,
                allocated_bytes=self.allocated_bytes,
                reserved_bytes=self.reserved_bytes,
                limit_bytes=self._device.limit_bytes,
            )
        block.allocated = True
        block.requested_bytes = requested_bytes
        self.allocated_bytes += block.size
        self.requested_bytes += requested_bytes
        if self.allocated_bytes > self.max_allocated_bytes:
            self.max_allocated_bytes = self.allocated_bytes
        if self.requested_bytes > self.max_requested_bytes:
            self.max_requested_bytes = self.requested_bytes
        return block

    def free(self, block: Block) -> None:
        """Take a block back; raise ValueError if it is not handed out."""
        if not block.allocated:
            raise ValueError(f"{block!r} is not handed out")
        block.allocated = False
        self.allocated_bytes -= block.size
        self.requested_bytes -= block.requested_bytes
        block.pool.take_back(block)

    def empty_cache(self) -> None:
        """Give back what is wholly free, as `torch.cuda.empty_cache()` does: segments, or pages of expandable ones."""
        for small, large in self._pools.values():
            large.release()
            small.release()

    def reset_peaks(self) -> None:
        """Let the peaks start anew from what is held now, as `torch.cuda.reset_peak_memory_stats()` does."""
        self.max_allocated_bytes = self.allocated_bytes
        self.max_requested_bytes = self.requested_bytes
        self._device.max_reserved_bytes = self._device.reserved_bytes

    def _round(self, requested_bytes: int) -> tuple[int, Pool]:
        """Return the size that a request is rounded to, and its pool; a step asks for few sizes, each many times."""
        if requested_bytes <= 0:
            raise ValueError(f"a block needs at least one byte, not {requested_bytes}")
        size = self.settings.round_size(requested_bytes)
        rounded = self._rounded[requested_bytes] = size, self._small if size <= SMALL_BYTES else self._large
        return rounded

    def _grow(self, pool: Pool, size: int) -> Block | None:
        """Hand out memory that comes from the device, after releasing what is cached if need be [:1193-1242]."""
        block = pool.grow(size)
        if block is None and pool.release_oversize(size):
            block = pool.grow(size)
        if block is None:
            self.retry_count += 1
            self.empty_cache()
            block = pool.grow(size)
        return None if block is None else pool.hand_out(size, block)
