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
from inspector.memory.allocator.pools import SegmentChange
from inspector.memory.allocator.settings import UNLIMITED
from inspector.memory.held import HeldBlock, HeldMemory, HeldSegment, WatchedAllocator
from inspector.memory.recording import Recording
from inspector.memory.replay import carry_out, list_requests
from inspector.records.tape import Event, EventKind

__all__ = ["build_snapshot"]

_POOL = (0, 0)
_Frames = list[dict[str, Any]]


def build_snapshot(recording: Recording) -> dict[str, Any]:
    """Return the snapshot at the end of a tape: plain dicts, lists, strings and integers.

    Raises ValueError where memory runs out under the recording's limit, or the tape contradicts itself.
    """
    allocator = WatchedAllocator.of(recording)
    trace = _Trace(allocator)
    failure = carry_out(list_requests(trace.watch(recording.tape)), allocator)
    if failure is not None:
        raise ValueError(f"memory ran out: {failure}")
    settings = allocator.settings
    return {
        "segments": trace.describe_segments(),
        "device_traces": [trace.entries],
        "allocator_settings": {
            "max_split_size": -1 if settings.max_split_bytes == UNLIMITED else settings.max_split_bytes,
            "expandable_segments": settings.expandable_segments,
        },
        "external_annotations": [],
    }


class _Trace:
    """The actions of an allocator, written down from between its tape and its requests."""

    def __init__(self, allocator: WatchedAllocator) -> None:
        self.entries: list[dict[str, Any]] = []
        self._is_expandable = allocator.settings.expandable_segments
        self._held = HeldMemory(allocator)
        self._frames: dict[tuple[str, str, str, int], _Frames] = {}
        self._modules: dict[str, _Frames] = {}

    def watch(self, tape: Iterable[Event]) -> Iterator[Event]:
        """Yield the events; once the next one is asked for, write down what the last one did."""
        for event in tape:
            yield event
            frames = self._find_frames(event)
            changes, touched = self._held.follow(event)
            for change in changes:
                self._note_segment(change, frames)
            if touched is None:
                continue
            common: dict[str, Any] = {
                "addr": touched.address,
                "size": touched.requested_bytes,
                "block_size": touched.bytes,
                "stream": 0,
                "frames": frames,
                "category": event.category.value,
                "pool_id": _POOL,
            }
            if event.kind is EventKind.ALLOCATE:
                self.entries.append({"action": "alloc", **common})
            else:
                self.entries.append({"action": "free_requested", **common})
                self.entries.append({"action": "free_completed", **common})

    def describe_segments(self) -> list[dict[str, Any]]:
        """Return what is reserved now, of expandable segments each stretch that memory is behind."""
        return [self._describe_segment(segment) for segment in self._held.list_segments()]

    def _describe_segment(self, segment: HeldSegment) -> dict[str, Any]:
        """Return a segment with its blocks."""
        live = [block for block in segment.blocks if block.made_by is not None]
        return {
            "device": 0,
            "address": segment.address,
            "total_size": segment.bytes,
            "allocated_size": sum(block.bytes for block in live),
            "active_size": sum(block.bytes for block in live),
            "requested_size": sum(block.requested_bytes for block in live),
            "stream": 0,
            "segment_type": "small" if segment.is_small else "large",
            "segment_pool_id": _POOL,
            "is_expandable": self._is_expandable,
            "frames": [],
            "blocks": [self._describe_block(block) for block in segment.blocks],
        }

    def _describe_block(self, block: HeldBlock) -> dict[str, Any]:
        """Return a block with the frames of what made it."""
        return {
            "address": block.address,
            "size": block.bytes,
            "requested_size": block.requested_bytes,
            "state": "inactive" if block.made_by is None else "active_allocated",
            "frames": [] if block.made_by is None else self._find_frames(block.made_by),
        }

    def _note_segment(self, change: SegmentChange, frames: _Frames) -> None:
        """Write down that memory came from the device or went back."""
        names = ("segment_map", "segment_unmap") if self._is_expandable else ("segment_alloc", "segment_free")
        entry = {"action": names[0 if change.is_taken else 1], "addr": change.address, "size": change.bytes}
        self.entries.append({**entry, "stream": 0, "frames": frames, "pool_id": _POOL})

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
