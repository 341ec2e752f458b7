"""A world of ranks of which this process is one, on the meta device.

torch.distributed asks `torch.<device type>` for streams, events and the current device (device_mesh.py,
`_get_device_handle`): `_MetaDevice` answers for meta. Collectives have meta kernels of their own in torch
(distributed/_meta_registrations.py), so no backend is asked for them; the fake process group tells rank and size.
What in FSDP2 knows meta tensors as weights that are still to be loaded is put right (`_pad_shard`).
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from inspector.compat.distributed import (
    FakeStore,
    accept_parameters_on_meta,
    call_after_reset,
    find_kept_shard,
    local_tensor_of,
    make_fake_group,
    set_shard,
)
from inspector.compat.torch import next_sequence_number, storage_address
from inspector.runtime.patches import call_at_end, replace_attribute, replace_item, restore_changes
from inspector.trace.shadow import Shadows

__all__ = ["Streams", "begin_world", "exchange_counts"]

_BACKEND = "meta_ranks"


class _Stream:
    """A CUDA stream, of which nothing but its identity is needed: blocks belong to the one they were made on."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.number = next(streams.numbers)
        self.device = torch.device("meta")

    def wait_stream(self, _other: Any) -> None:
        """Wait for nothing: work on meta is done when it was asked for."""

    def wait_event(self, _event: Any) -> None:
        """Wait for nothing."""

    def synchronize(self) -> None:
        """Wait for nothing."""

    def record_event(self, event: Any = None) -> Any:
        """Return an event that has happened."""
        return event or _Event()

    def is_capturing(self) -> bool:
        """Tell an optimizer that no graph is recorded; where there is a GPU it asks (torch/optim/optimizer.py)."""
        return False

    def __enter__(self) -> _Stream:
        """Make this the current stream."""
        self._before, self._streams.current = self._streams.current, self
        return self

    def __exit__(self, *_: Any) -> None:
        """Make the one before current again."""
        self._streams.current = self._before


class _Event:
    """A CUDA event that has happened."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take what a CUDA event takes."""

    def record(self, _stream: Any = None) -> None:
        """Happen."""

    def wait(self, _stream: Any = None) -> None:
        """Wait for nothing."""

    def synchronize(self) -> None:
        """Wait for nothing."""

    def query(self) -> bool:
        """Tell that it has happened."""
        return True


class Streams:
    """The streams of a rank: which one is current, and which nodes of autograd's graph were made on which.

    Autograd runs the backward of an op on the stream of its forward (torch/csrc/autograd/engine.cpp).
    """

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.default = _Stream(self)
        self.current = self.default
        self._nodes: list[tuple[int, int, _Stream]] = []

    @contextlib.contextmanager
    def use(self, stream: _Stream | None) -> Iterator[None]:
        """Make a stream current inside the block, and note which nodes are made there."""
        before, self.current = self.current, stream or self.current
        first = next_sequence_number()
        try:
            yield
        finally:
            last = next_sequence_number()
            if last > first and self.current is not self.default:
                self._nodes.append((first, last, self.current))
            self.current = before

    def find_number(self, node: int | None) -> int:
        """Return the number of the stream at work; `node` is the sequence number of the one whose backward runs."""
        if node is not None and self.current is self.default:
            for first, last, stream in reversed(self._nodes):
                if first <= node < last:
                    return stream.number
        return self.current.number

    def find_view_number(self) -> int:
        """Return the number of the stream that nodes were made on last beside the default one."""
        return self._nodes[-1][2].number if self._nodes else self.default.number


class _MetaDevice(types.ModuleType):
    """What `torch.cuda` is to CUDA, for meta."""

    Event = _Event

    def __init__(self, streams: Streams, count: int) -> None:
        super().__init__("torch.meta")
        self._streams = streams
        self._count = count

    def Stream(self, _device: Any = None, priority: int = 0) -> _Stream:  # noqa: N802  # the name that torch asks for
        """Make a stream."""
        del priority
        return _Stream(self._streams)

    def stream(self, stream: _Stream | None) -> contextlib.AbstractContextManager[None]:
        """Make a stream current inside a block."""
        return self._streams.use(stream)

    def current_stream(self, _device: Any = None) -> _Stream:
        """Return the current stream."""
        return self._streams.current

    def default_stream(self, _device: Any = None) -> _Stream:
        """Return the default stream."""
        return self._streams.default

    def current_device(self) -> None:
        """Return no index: `meta:0` and `meta` are one device."""

    def device_count(self) -> int:
        """Return how many devices a node has."""
        return self._count

    def is_initialized(self) -> bool:
        """Tell that the device is ready."""
        return True

    def is_available(self) -> bool:
        """Tell that the device is there."""
        return True

    def set_device(self, _device: Any) -> None:
        """Choose the only device."""

    def set_device_index(self, _device: Any) -> None:
        """Choose the only device."""

    def synchronize(self, _device: Any = None) -> None:
        """Wait for nothing."""


@contextlib.contextmanager
def begin_world(size: int, rank: int, on_a_node: int | None = None) -> Iterator[Streams]:
    """Make this process rank `rank` of `size` inside the block; a machine has `on_a_node` cards, by default all."""
    streams = Streams()
    with restore_changes():
        device = _MetaDevice(streams, on_a_node or size)
        replace_attribute(torch, "meta", device)
        replace_item(sys.modules, "torch.meta", device)
        # Asked where a prefetch missed its target (FSDPParamGroup.finalize_backward).
        replace_attribute(torch.accelerator, "current_stream", device.current_stream)
        accept_parameters_on_meta()
        call_after_reset(_pad_shard)
        if _BACKEND not in dist.Backend.backend_list:
            dist.Backend.register_backend(_BACKEND, make_fake_group, extended_api=True, devices=["cpu", "cuda", "meta"])
        call_at_end(_end_group)
        dist.init_process_group(_BACKEND, rank=rank, world_size=size, store=FakeStore())
        yield streams


def _end_group() -> None:
    """End the process group, if it is there."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _pad_shard(param: Any) -> None:
    """Take over a parameter's new shard, padded to the rows of the largest, as FSDP2 does off meta.

    On meta it returns before, since a shard there is taken for one without memory; and it knows shards by addresses,
    which are all 0 here (fsdp/_fully_shard/_fsdp_param.py, `reset_sharded_param`, torch 2.13).
    """
    local = local_tensor_of(param.sharded_param)
    kept = find_kept_shard(param)
    if storage_address(kept.untyped_storage()) == storage_address(local.untyped_storage()):
        return
    size = param.padded_sharded_param_size
    if local.size() == size:
        set_shard(param, local, local)
        return
    dim = param.fsdp_placement.dim
    length = local.size(dim) if local.numel() > 0 else 0
    padded = local.new_zeros(size)
    padded.narrow(dim=dim, start=0, length=length).copy_(local)
    set_shard(param, padded, padded.narrow(dim=dim, start=0, length=length))


def exchange_counts(shadows: Shadows, received: Tensor, sent: Tensor, group: Any) -> None:
    """Give what a rank receives in an exchange of numbers its value: all ranks of the group send what this one does.

    With experts on ranks of their own each counts the tokens that it has for them, and reads back what it will get
    (transformers/distributed/expert_parallel.py, `AllToAllEP`, 5.23): what a router says of the data. Experts are taken
    to be balanced, as where a loop over them reads it (trace/rules/moe_routing.py), on all ranks alike.
    """
    value = shadows.find(sent)
    if value is None:
        return
    ranks = dist.ProcessGroup.unbox(group)
    own = value.chunk(ranks.size())[ranks.rank()]
    shadows.set(received, own.repeat(ranks.size(), *[1] * (value.dim() - 1)))
