"""The tracer of one rank: what torch.distributed adds to a run on one card.

DTensor and tensors that wait for a collective answer an op first, and become ops on local tensors; storages are
resized, to nothing and back; and every block belongs to a stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from inspector.compat.distributed import AsyncCollectiveTensor, active_fake_mode, local_tensor_of
from inspector.compat.torch import current_autograd_node, sequence_number, storage_address, tree_leaves
from inspector.distributed.experts import exchange_counts
from inspector.distributed.kernels import PACKING_KERNELS
from inspector.distributed.world import Streams
from inspector.memory.late_frees import USED_ELSEWHERE
from inspector.records.tape import Category, Event, EventKind, Phase
from inspector.runtime.patches import replace_attribute
from inspector.trace.categories import Categories
from inspector.trace.tracer import Tracer

__all__ = ["RankTracer"]

aten = torch.ops.aten
# The node that keeps the gradient of a parameter; it was made with the first view of it, and runs on that stream.
_OF_LEAVES = "torch::autograd::AccumulateGrad"
_READ, _SHAPED_LIKE = aten._local_scalar_dense.default, aten.zeros_like.default
_NO_BLOCK = -1
_OF_RANKS = (Category.GATHERED, Category.COMMUNICATION)
_OF_COLLECTIVES = frozenset({"c10d", "_c10d_functional", "_dtensor"})


class RankTracer(Tracer):
    """Record the memory of one rank; `streams` are those of the world it is in."""

    def __init__(self, *args: Any, streams: Streams, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._streams = streams
        self._stream_of_events: list[int] = []
        # Blocks of storages that were resized to nothing, and are alive still.
        self._ended: set[int] = set()
        self._sizes_of_shared: set[int] = set()
        self._answers_reads = False
        # The streams of blocks, and which blocks are used on another one.
        self._stream_of_blocks: dict[int, int] = {}
        self._used_elsewhere: set[int] = set()
        self._offloads = self._makes_on_host = self._pins = False
        # Whether tensors say themselves which of the two devices they lie on (two_devices.py).
        self._tells_devices = False
        self.runs_op = False
        # What lies in host memory: the key of a storage -> its block there.
        self._on_host: dict[int, int] = {}

    def tape(self) -> list[Event]:
        """Return everything recorded, each event with the stream that it happened on."""
        tape = super().tape()
        order = {0: 0}
        numbers = [order.setdefault(number, len(order)) for number in self._stream_of_events]
        return [event._replace(stream=number) for event, number in zip(tape, numbers, strict=True)]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an op, or let the classes of its tensors make others of it."""
        if not self._tells_devices or self.runs_op:
            return self._run(func, types, args, kwargs)
        self.runs_op = True  # kernels of meta in Python ask for devices, too
        try:
            return self._run(func, types, args, kwargs)
        finally:
            self.runs_op = False

    def _run(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        """Run an op as `__torch_dispatch__` does."""
        if any(issubclass(kind, (DTensor, AsyncCollectiveTensor)) for kind in types):
            return NotImplemented
        kwargs = kwargs or {}
        if active_fake_mode() is not None:
            return func(*args, **kwargs)
        if self._answers_reads and func is _READ:
            return self._answer(func, args, kwargs)
        if self._offloads and self._is_of_host(func, args, kwargs):
            return self._run_on_host(func, args, kwargs)
        if self._answers_reads and func is _SHAPED_LIKE:
            return self._answer(func, args, kwargs)
        if self._tells_devices and func is aten.copy_.default:
            self._convert_between_devices(*args, **kwargs)
        if func.namespace in _OF_COLLECTIVES:
            return self._run_collective(func, types, args, kwargs)
        if func is aten.copy_.default and args[1].is_meta and not args[0].is_meta:
            return args[0]  # what was sent is what is here already
        if func.namespace == "fsdp":
            return self._run_packing(func, args, kwargs)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def __enter__(self) -> RankTracer:
        """Start watching, storages that are resized too."""
        super().__enter__()
        resize = torch.UntypedStorage.resize_

        def resize_and_note(storage: torch.UntypedStorage, size: int) -> Any:
            before = storage.nbytes()
            result = resize(storage, size)
            self._note_resize(storage, before, size)
            return result

        replace_attribute(torch.UntypedStorage, "resize_", resize_and_note)
        return self

    def use_categories(self, categories: Categories, *, keeps: bool) -> None:
        """Say what blocks are for by the parameters of a model that is wrapped by now; `keeps` what was said before."""
        if keeps:
            categories.take_over(self._categories)
        self._categories = categories

    def note_shared(self, parameters: Iterable[Tensor]) -> None:
        """Note parameters that several modules share, and that are views made on a stream of their own.

        Autograd adds up their gradients on the stream of what takes the sum (torch/csrc/autograd/input_buffer.cpp).
        """
        self._sizes_of_shared |= {item.numel() * width for item in parameters for width in (2, 4)}

    def note_use(self, tensor: Tensor, stream: Any) -> None:
        """Note that a stream uses a tensor, as `Tensor.record_stream` does."""
        block = self._blocks.get(storage_address(tensor.untyped_storage()), _NO_BLOCK)
        if self._stream_of_blocks.get(block, stream.number) != stream.number:
            self._used_elsewhere.add(block)

    def answer_reads(self) -> None:
        """Answer what the host reads of the device as a step that succeeds has it: norms are 1, nothing overflowed.

        Checks whose value is known are read as they are. Shapes that are kept on meta, before the first step, take no
        memory (DeepSpeed does so).
        """
        self._answers_reads = True

    @contextlib.contextmanager
    def make_on_host(self, *, pinned: bool = False) -> Iterator[None]:
        """Take everything that is made inside the block for host memory; what comes of it alone stays there, too.

        Blocks of `pinned` memory are powers of two (c10/core/CachingHostAllocator.h, `allocate`).
        """
        self._offloads = self._makes_on_host = True
        self._pins = pinned
        try:
            yield
        finally:
            self._makes_on_host = self._pins = False

    def keep_devices_apart(self) -> None:
        """Take ops that are sent to the CPU for ops of the host from now on, where tensors say what they lie on."""
        self._offloads = self._tells_devices = True

    def lies_on_host(self, tensor: Tensor) -> bool:
        """Tell whether a tensor on meta is one of the host."""
        return tensor.is_meta and storage_address(tensor.untyped_storage()) in self._on_host

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Take tensors for placeholders without memory, as meta's are off meta."""
        for tensor in tensors:
            storage = (local_tensor_of(tensor) if isinstance(tensor, DTensor) else tensor).untyped_storage()
            if storage_address(storage) not in self._blocks:
                self._watch(storage, _NO_BLOCK)

    def mark_buckets(self) -> None:
        """Say of everything that was made while the model was wrapped that gradients are reduced in it."""
        for block, op in [(block, op) for kind, block, *_, op in self._events if kind is EventKind.ALLOCATE]:
            if op != "load":
                self._categories.assign(block, Category.COMMUNICATION)

    def _is_of_host(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Tell whether an op runs on the host: it is sent there, or everything that it reads lies there.

        What an update makes of nothing is the state of parameters that lie there.
        """
        if self._makes_on_host or str(kwargs.get("device")) == "cpu":
            return not (func is aten._to_copy.default and self.shadows.find(args[0]) is not None)
        read = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor) and item.is_meta]
        if not read:
            return not self._tells_devices and self._phase is Phase.OPTIMIZER and func is aten.zeros.default
        if str(kwargs.get("device")) == "meta" and self._tells_devices:
            return False
        return all(storage_address(item.untyped_storage()) in self._on_host for item in read)

    def _run_on_host(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an op of the host, and hold what it makes there; tensors stay on meta, which stands for both."""
        if str(kwargs.get("device")) == "cpu":
            kwargs = {**kwargs, "device": torch.device("meta")}
        result = func(*args, **kwargs)
        for item in tree_leaves(result):
            if isinstance(item, Tensor) and storage_address(item.untyped_storage()) not in self._blocks:
                storage = item.untyped_storage()
                size = storage.nbytes()
                size = 1 << (size - 1).bit_length() if self._pins and size else size
                self._on_host[storage_address(storage)] = self.hold_on_host(size)
                self._watch(storage, _NO_BLOCK)
        if self._tells_devices and func is aten._to_copy.default:
            self._convert_between_devices(result, args[0], kwargs.get("non_blocking", False))
        return result

    def _convert_between_devices(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> None:
        """Record what the card takes for a copy from or to the host (native/cuda/Copy.cu, `copy_kernel_cuda`).

        A copy that does not block is converted on the card, another on the host.
        """
        to_host = self.lies_on_host(target)
        if to_host == self.lies_on_host(source) or not target.is_meta:
            return
        own, converts = (source, target) if to_host else (target, source), target.dtype != source.dtype
        if not own[0].is_contiguous() or (converts and non_blocking):
            size = own[0].numel() * (own[1] if converts and non_blocking else own[0]).element_size()
            self._release(self._allocate(size, "aten.copy_.default"))

    def _answer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return a number that is read back, or a tensor that is kept for its shape."""
        if func is _SHAPED_LIKE and self._phase is Phase.LOAD and kwargs.get("device") is not None:
            shaped: Tensor = func(*args, **kwargs)
            self._watch(shaped.untyped_storage(), _NO_BLOCK)
            return shaped
        if func is _READ and args[0].is_meta:
            if args[0].is_floating_point():
                return 1.0
            value = self.shadows.find(args[0])
            return (args[0].dtype is not torch.bool and 0) if value is None else value.item()
        return super().__torch_dispatch__(func, (), args, kwargs)

    def _run_collective(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a collective: those of c10d write into tensors that are there."""
        if func is torch.ops._c10d_functional.wait_tensor.default:
            return args[0]  # so does the real one; the meta kernel makes a new tensor
        if func is torch.ops._c10d_functional.all_reduce.default:  # in place, on a copy (Functional.cpp)
            return self.__torch_dispatch__(aten.clone.default, types, args[:1])
        if func is torch.ops._c10d_functional._wrap_tensor_autograd.default:
            return aten.alias.default(args[0])
        if func.namespace == "c10d":
            result = func(*args, **kwargs)
            if func is torch.ops.c10d.alltoall_base_.default:
                exchange_counts(self.shadows, *args[:3])
            if (
                self._answers_reads
                and func is torch.ops.c10d._allgather_base_.default
                and self._phase is not Phase.LOAD
            ):
                self._assign(args[0], Category.GATHERED, str(func))
            if self._phase is Phase.BACKWARD and func is torch.ops.c10d._reduce_scatter_base_.default:
                self._assign(args[0], Category.COMMUNICATION, str(func))
            return result
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _run_packing(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one of FSDP's own ops, with what its kernel takes."""
        name, count = str(func), PACKING_KERNELS.get(func)
        result = func(*args, **kwargs)
        if count is None:
            self._see_outputs(result, name)
            self._assign(result, Category.COMMUNICATION, name)
            return result
        if size := count(self._platform, *args, **kwargs):
            self._release(self._allocate(size, name))
        is_gathered = func is torch.ops.fsdp.split_with_sizes_copy.default
        self._assign(kwargs["out"], Category.GATHERED if is_gathered else Category.COMMUNICATION, name)
        return result

    def _assign(self, tensors: Any, category: Category, op: str) -> None:
        """Say what the blocks of tensors are for."""
        for tensor in tree_leaves(tensors):
            self._categories.assign(self._see(tensor, op), category)

    def _record(self, kind: EventKind, block: int, size: int, op: str) -> None:
        super()._record(kind, block, size, op)
        node = current_autograd_node() if self._phase is Phase.BACKWARD else None
        number = self._streams.find_number(None if node is None else sequence_number(node))
        is_sum = size in self._sizes_of_shared and op == "aten.add.Tensor"
        if node is not None and number == self._streams.default.number and (is_sum or node.name() == _OF_LEAVES):
            number = self._streams.find_view_number()
        self._stream_of_events.append(number)
        if kind is EventKind.ALLOCATE:
            self._stream_of_blocks[block] = number

    def _release(self, block: int) -> None:
        self._stream_of_blocks.pop(block, None)
        is_used = block in self._used_elsewhere
        self._record(EventKind.FREE, block, self._sizes.pop(block), USED_ELSEWHERE if is_used else "")

    def _see(self, tensor: Tensor, op: str) -> int:
        return super()._see(local_tensor_of(tensor) if isinstance(tensor, DTensor) else tensor, op)

    def _note_resize(self, storage: torch.UntypedStorage, before: int, after: int) -> None:
        """Record that the memory of a storage ended, and that it got other memory."""
        key = storage_address(storage)
        block = self._blocks.get(key)
        if block is None or before == after:
            return
        if block not in self._ended:
            self._release(block)
            self._ended.add(block)
        if after:
            self._ended.discard(block)
            self._blocks[key] = fresh = self._allocate(after, "resize_")
            category = self._categories[block]
            self._categories.assign(fresh, category if category in _OF_RANKS else Category.GATHERED)

    def _forget(self, watched: Any) -> None:
        if watched.key in self._on_host:
            self.release_from_host(self._on_host.pop(watched.key))
        if (block := self._blocks[watched.key]) in self._ended:
            self._ended.discard(block)
            del self._watched[watched.key], self._blocks[watched.key]
        else:
            super()._forget(watched)
