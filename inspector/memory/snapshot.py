"""A tape as the snapshot that `torch.cuda.memory._dump_snapshot` writes, for pytorch.org/memory_viz and its relatives.

A snapshot has the *trace*, every action of the allocator in its order, and the *segments* with the blocks in them as
they are when it is taken: here when the tape is over. Both come from the simulated allocator, so that segments come and
go, blocks split and merge, and cached blocks are given back where they would be on the card. The keys and the order of
actions are those of torch 2.13: torch/csrc/cuda/Module.cpp (`THCPModule_memorySnapshot`) and `record_trace` in
c10/cuda/CUDACachingAllocator.cpp; `torch.cuda.memory._snapshot` describes them.

As in torch, the `size` of an action is what was asked for. The block that is handed out for it is larger by rounding,
and the report counts blocks: each action has its block, too, in a key of ours, `block_size`. `category` is the key of
torch's own `profile_plot`, by which the viewer colours. Frames are not lines of code but what the tape knows: the
operation, with its phase as the file and its step as the line, then the path of the module, the innermost first.

Does not cover: times, of which a simulation has none; streams (there is one) and private pools.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from inspector.errors import one_line
from inspector.memory.allocator.caching import Block, CachingAllocator, OutOfMemory
from inspector.memory.allocator.pools import SegmentChange
from inspector.memory.allocator.settings import UNLIMITED, AllocatorSettings
from inspector.memory.recording import Recording
from inspector.memory.replay import carry_out, list_requests
from inspector.records.tape import Event, EventKind

__all__ = ["build_snapshot"]

_POOL = (0, 0)
_Frames = list[dict[str, Any]]
# (address, bytes, small pool) of what is reserved at the end.
_Reserved = list[tuple[int, int, bool]]


def build_snapshot(recording: Recording) -> dict[str, Any]:
    """Return the snapshot at the end of a tape: plain dicts, lists, strings and integers.

    Raises ValueError where memory runs out under the recording's limit, or the tape contradicts itself.
    """
    settings = recording.settings or AllocatorSettings()
    allocator = _WatchedAllocator(
        settings, limit_bytes=recording.limit_bytes, descending_addresses=recording.descending_addresses
    )
    trace = _Trace(allocator)
    failure = carry_out(list_requests(trace.watch(recording.tape)), allocator)
    if failure is not None:
        raise ValueError(f"memory ran out: {failure}")
    return {
        "segments": list(trace.describe_segments(is_expandable=settings.expandable_segments)),
        "device_traces": [trace.entries],
        "allocator_settings": {
            "max_split_size": -1 if settings.max_split_bytes == UNLIMITED else settings.max_split_bytes,
            "expandable_segments": settings.expandable_segments,
        },
        "external_annotations": [],
    }


class _WatchedAllocator(CachingAllocator):
    """An allocator that remembers the last block that it handed out or took back, with its size at that time."""

    touched: tuple[int, int, int] | None = None  # its address, its size and what was asked for

    def allocate(self, requested_bytes: int) -> Block | OutOfMemory:
        """Hand out a block and remember it."""
        block = super().allocate(requested_bytes)
        if isinstance(block, Block):
            self.touched = block.address, block.size, block.requested_bytes
        return block

    def free(self, block: Block) -> None:
        """Remember a block as it is, before it merges, and take it back."""
        self.touched = block.address, block.size, block.requested_bytes
        super().free(block)


class _Trace:
    """The actions of an allocator, written down from between its tape and its requests, and what is held then."""

    def __init__(self, allocator: _WatchedAllocator) -> None:
        self.entries: list[dict[str, Any]] = []
        self._allocator = allocator
        self._segment_changes = allocator.log_segments()
        self._frames: dict[tuple[str, str, str, int], _Frames] = {}
        self._modules: dict[str, _Frames] = {}
        self._live: dict[int, tuple[Event, int, int]] = {}  # by address: its allocation, its size and what was asked
        self._reserved: dict[int, tuple[int, bool]] = {}  # by address: what came from the device

    def watch(self, tape: Iterable[Event]) -> Iterator[Event]:
        """Yield the events; once the next one is asked for, write down what the last one did."""
        allocator = self._allocator
        for event in tape:
            allocator.touched = None
            yield event
            frames = self._find_frames(event)
            for change in self._segment_changes:
                self._note_segment(change, frames)
            self._segment_changes.clear()
            if allocator.touched is None:  # nothing of zero bytes reaches the allocator
                continue
            address, size, requested = allocator.touched
            common = {"addr": address, "size": requested, "block_size": size, "stream": 0, "frames": frames}
            common |= {"category": event.category.value, "pool_id": _POOL}
            if event.kind is EventKind.ALLOCATE:
                self._live[address] = event, size, requested
                self.entries.append({"action": "alloc", **common})
            else:
                del self._live[address]
                self.entries.append({"action": "free_requested", **common})
                self.entries.append({"action": "free_completed", **common})

    def describe_segments(self, *, is_expandable: bool) -> Iterator[dict[str, Any]]:
        """Yield what is reserved at the end by address, of expandable segments each stretch that is backed."""
        live = sorted(self._live)
        position = 0
        for address, size, is_small in _join(self._reserved, is_expandable=is_expandable):
            blocks, place = [], address
            while position < len(live) and live[position] < address + size:
                event, block_size, requested = self._live[live[position]]
                if live[position] > place:
                    blocks.append(_describe_free(place, live[position] - place))
                blocks.append(
                    {
                        "address": live[position],
                        "size": block_size,
                        "requested_size": requested,
                        "state": "active_allocated",
                        "frames": self._find_frames(event),
                    }
                )
                place = live[position] + block_size
                position += 1
            if place < address + size:
                blocks.append(_describe_free(place, address + size - place))
            held = [block for block in blocks if block["state"] == "active_allocated"]
            yield {
                "device": 0,
                "address": address,
                "total_size": size,
                "allocated_size": sum(block["size"] for block in held),
                "active_size": sum(block["size"] for block in held),
                "requested_size": sum(block["requested_size"] for block in held),
                "stream": 0,
                "segment_type": "small" if is_small else "large",
                "segment_pool_id": _POOL,
                "is_expandable": is_expandable,
                "frames": [],
                "blocks": blocks,
            }

    def _note_segment(self, change: SegmentChange, frames: _Frames) -> None:
        """Write down that memory came from the device or went back."""
        is_expandable = self._allocator.settings.expandable_segments
        names = ("segment_map", "segment_unmap") if is_expandable else ("segment_alloc", "segment_free")
        if change.is_taken:
            self._reserved[change.address] = change.bytes, change.is_small
        else:
            self._take_away(change)
        entry = {"action": names[0 if change.is_taken else 1], "addr": change.address, "size": change.bytes}
        self.entries.append({**entry, "stream": 0, "frames": frames, "pool_id": _POOL})

    def _take_away(self, change: SegmentChange) -> None:
        """Forget memory that went back: a whole segment, or pages out of what was mapped at several times."""
        end = change.address + change.bytes
        for address, (size, is_small) in list(self._reserved.items()):
            if address >= end or address + size <= change.address:
                continue
            del self._reserved[address]
            if address < change.address:
                self._reserved[address] = change.address - address, is_small
            if address + size > end:
                self._reserved[end] = address + size - end, is_small

    def _find_frames(self, event: Event) -> _Frames:
        """Return the frames of an event; equal ones are one list, so that a file has them once."""
        key = event.module, event.op, event.phase.value, event.step
        if key not in self._frames:
            operation = one_line(event.op) or "no operation"
            first = {"filename": event.phase.value, "line": event.step, "name": operation}
            self._frames[key] = [first, *self._find_module_frames(event.module)]
        return self._frames[key]

    def _find_module_frames(self, module: str) -> Sequence[dict[str, Any]]:
        """Return a frame for a module and for each that it is in, the innermost first."""
        if module not in self._modules:
            outer = self._find_module_frames(module.rpartition(".")[0]) if module else ()
            own = [{"filename": "module", "line": 0, "name": one_line(module)}] if module else []
            self._modules[module] = [*own, *outer]
        return self._modules[module]


def _join(reserved: dict[int, tuple[int, bool]], *, is_expandable: bool) -> _Reserved:
    """Return what is reserved by address; pages of a pool beside each other are one stretch."""
    joined: _Reserved = []
    for address, (size, is_small) in sorted(reserved.items()):
        if is_expandable and joined and joined[-1][0] + joined[-1][1] == address and joined[-1][2] is is_small:
            joined[-1] = joined[-1][0], joined[-1][1] + size, is_small
        else:
            joined.append((address, size, is_small))
    return joined


def _describe_free(address: int, size: int) -> dict[str, Any]:
    """Return a block that nothing lives in."""
    return {"address": address, "size": size, "requested_size": 0, "state": "inactive", "frames": []}
