"""Watch every allocation and every free of a step that runs on meta tensors, and write them down.

The tracer records, nothing else, and knows nothing of what runs: what a block is for is decided in `categories`. A
block is a storage, since views share one; a weak reference on the storage tells of its end.

Being a dispatch mode it changes what runs; `mode_effects` undoes that.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from inspector.compat.torch import (
    TorchDispatchMode,
    current_autograd_node,
    dispatch_mode_stack,
    restore_module_hooks_at_end,
    storage_address,
    tree_leaves,
)
from inspector.hardware.platform import Platform
from inspector.records.tape import Category, Event, EventKind, Phase
from inspector.runtime.patches import Mark, begin_block, call_at_end, restore_block
from inspector.trace.categories import Categories
from inspector.trace.identity import Identities
from inspector.trace.kernel_scratch import KernelScratch
from inspector.trace.kernels import LT_OPS, Kernel
from inspector.trace.meta_cache import Results
from inspector.trace.mode_effects import accumulates_in_place, find_op_without_mode, is_assigned_number
from inspector.trace.ops import INDEXING, MASKED, READING, SELECTING, Op, look_up
from inspector.trace.parts import Parts
from inspector.trace.rules import masks
from inspector.trace.rules.assumed import Assumptions, BytePatches
from inspector.trace.rules.host_values import copies_to_host, is_on_host, make_like
from inspector.trace.shadow import NO_VALUE, Shadows

__all__ = ["Tracer"]

aten = torch.ops.aten

# Two steps of LoRA on Llama-3.1-405B are 118,975 events, traced in 2.3 s on one core here: a million take 20 s.
# Four layers of RWKV that go through 1,024 positions one by one are 1,249,000.
_MOST_EVENTS = 1_500_000
# The block of what lies on the CPU where there is a GPU.
_ON_HOST = -1


class Tracer(TorchDispatchMode):
    """Record the memory of everything that runs inside the `with` block under the rules of a platform.

    `token` is what every choice of a next token is taken to be, None where none is chosen. `results` are those that ops
    returned in other traces, which this one takes from and adds to; None for none. `holds_all` says that none of the
    batch's images is padding, `patches` how bytes are put together by their entropies.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do without the wrapper that keeps torch.compile out, which each op goes through: nothing is compiled."""
        return False

    def __init__(
        self,
        platform: Platform,
        names: Mapping[nn.Module, str] | None = None,
        categories: Categories | None = None,
        *,
        on_cuda: bool = True,
        balances_experts: bool = False,
        token: int | None = None,
        results: Results | None = None,
        holds_all: bool = False,
        patches: BytePatches | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its modes untyped
        self.shadows = Shadows()
        self._results = Results() if results is None else results
        self._platform = platform
        self._on_cuda = on_cuda
        self._parts = Parts(self.shadows)
        self.assumptions = Assumptions(
            balances_experts=balances_experts, token=token, holds_all=holds_all, patches=patches
        )
        self._names = names or {}
        self._events: list[tuple[EventKind, int, int, Phase, int, str, str]] = []
        self._categories = categories or Categories()
        self._blocks: dict[int, int] = {}
        self._identities = Identities(self._blocks)
        self._watched: dict[int, _Watched] = {}
        self._sizes: dict[int, int] = {}
        self._host_sizes: dict[int, int] = {}
        self._count = 0
        self._phase = Phase.LOAD
        self._step = 0
        self._started = 0
        self._modules: list[str] = [""]
        self._workspaces: set[tuple[str, bool]] = set()

    # --- what the run tells -------------------------------------------------------------------------------------------

    def enter(self, phase: Phase, step: int) -> None:
        """Begin a phase; what the phase before made and left alive is kept by something.

        A phase that is entered again goes on: only what is kept by now is looked at.
        """
        self._close_phase()
        if (phase, step) == (self._phase, self._step):
            return
        self._categories.enter(phase)
        self._phase, self._step = phase, step
        self._started = self._count

    def hold(self, tensors: Iterable[Tensor], category: Category, module: str = "") -> None:
        """Say what the blocks of these tensors are for and whose; blocks that are not known yet are allocated now."""
        with self.attribute_to(module):
            for tensor in tensors:
                self._categories.assign(self._see(tensor, "load"), category, tensor)

    @contextlib.contextmanager
    def attribute_to(self, module: str) -> Iterator[None]:
        """Say whose blocks are made inside the block."""
        self._modules.append(module)
        try:
            yield
        finally:
            self._modules.pop()

    def see_made(self, tensor: Tensor, value: Tensor) -> None:
        """Record a tensor that was made out of the mode's sight, with its value."""
        self._see(tensor, "tensor")
        self.shadows.set(tensor, value)

    def empty_cache(self) -> None:
        """Record `torch.cuda.empty_cache()`."""
        self._record(EventKind.EMPTY_CACHE, -1, 0, "empty_cache")

    def hold_on_host(self, size: int) -> int:
        """Record a block of host memory."""
        block = self._count
        self._count += 1
        self._host_sizes[block] = size
        self._record(EventKind.HOST_ALLOCATE, block, size, "to host")
        return block

    def release_from_host(self, block: int) -> None:
        """Record its end."""
        self._record(EventKind.HOST_FREE, block, self._host_sizes.pop(block), "")

    def tape(self) -> list[Event]:
        """Return everything recorded, each block with the category that it had."""
        self._close_phase()
        return [
            Event(kind, block, phase, size, self._categories[block], step, module, op)
            for kind, block, size, phase, step, module, op in self._events
        ]

    # --- what runs ----------------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one op, on shadows too where it has values, and record what it allocates."""
        kwargs, op, count = kwargs or {}, look_up(func), None
        is_special = op.is_special
        if is_special:
            if func in SELECTING:
                return self._select(func, *args)
            func = find_op_without_mode(func)
            if func in MASKED and masks.has_places(func, args, kwargs):
                if func is aten.index_put.default:  # a copy, and then the places (native/TensorAdvancedIndexing.cpp)
                    copied = self.__torch_dispatch__(aten.clone.default, (), args[:1])
                    return self.__torch_dispatch__(aten.index_put_.default, (), (copied, *args[1:]), kwargs)
                places = [
                    self.__torch_dispatch__(aten.nonzero.default, (), (item,))
                    for item in filter(masks.is_mask, args[1])
                ]
                args = (args[0], masks.replace_masks(args[1], places, self.shadows), *args[2:])
            if func is aten.add.Tensor and not kwargs and accumulates_in_place(*args):
                return aten.add_.Tensor(*args)
            if func is aten.nonzero.default:
                self._assume_places(args[0])
                count = self.shadows.count_repeated(args[0])
            op = look_up(func)
        value = self.shadows.run(func, args, kwargs) if count is None else NO_VALUE
        if count is not None or (value is not NO_VALUE and (func in READING or op.follows_values)):
            self.assumptions.note_use(args)
        if value is not NO_VALUE and (func in READING or copies_to_host(func, kwargs)):
            self.assumptions.note_use(args)
            return value
        if is_special and value is NO_VALUE and func is aten.equal.default:
            return self._compare(*args)
        if is_special and value is NO_VALUE and (number := self.assumptions.read(func, args)) is not None:
            return number
        if count is not None:  # nobody reads where a mask of tokens holds for each of their features
            result = args[0].new_empty((count, args[0].dim()), dtype=torch.int64)
        elif value is not NO_VALUE and op.follows_values:
            result = make_like(value)
        else:
            result = self._run_op(op, func, args, kwargs)
        if value is not NO_VALUE:
            self.shadows.keep(result, value)
            self.assumptions.spread(args, result)
        elif choice := self.assumptions.choose(func, args, result):
            self.shadows.set(*choice)
        elif op.changes_first:
            self.shadows.forget(args[0])
        else:
            self._parts.see(func, args, result)
        name = op.name
        if is_special:
            if self._on_cuda and is_assigned_number(func, kwargs):
                self._watch(result.untyped_storage(), _ON_HOST)
            for brought in masks.list_brought(func, args):
                self._bring(brought, name)
            if func in INDEXING and current_autograd_node() is None:
                # Python makes the tensors of an index such as x[[1]] out of a mode's sight
                # (python_variable_indexing.cpp).
                self._see_outputs(args[1], name)
        if self._on_cuda and op.kernel is not None and not is_on_host(result):
            self._run_kernel(op.kernel, args, kwargs, result, name)
        else:
            self._see_outputs(result, name)
        if is_special and func is aten.clone.default and value is NO_VALUE:
            self._identities.note_copy(args[0], result)
        if self._on_cuda and op.takes_workspace:
            self._take_workspaces(func, args)
        return result

    def _select(self, func: Any, values: Tensor, mask: Tensor, *sizes: Any) -> Tensor:
        """Return what a mask selects, or the gradient that does so: the ops that these are made of run."""
        if func is aten.masked_scatter_backward.default:
            return masks.scatter_back(
                lambda inner, *given: self.__torch_dispatch__(inner, (), *given), values, mask, *sizes
            )
        self._assume_places(mask)
        values, (mask,) = masks.broadcast_mask(values, mask, self.shadows)
        count = self.shadows.count_places(mask)
        if self._on_cuda or count is None:  # it is indexing there (native/cuda/IndexKernel.cpp)
            indexed: Tensor = self.__torch_dispatch__(aten.index.Tensor, (), (values, [mask]))
            return indexed
        self._see_outputs(selected := values.new_empty(count), str(func))
        return selected

    def _assume_places(self, mask: Tensor) -> None:
        """Say where a mask without a value holds, where something is assumed of it."""
        if mask.is_meta and self.shadows.find(mask) is None:
            places = self.assumptions.find_places(mask)
            if places is not None:
                self.shadows.set(mask, places)

    def _compare(self, first: Tensor, second: Tensor) -> bool:
        """Return whether tensors without values are equal: what holds the same numbers is (native/cuda/Equal.cpp)."""
        if storage_address(first.untyped_storage()) != storage_address(second.untyped_storage()) and self._on_cuda:
            self.__torch_dispatch__(
                aten.all.default, (), (self.__torch_dispatch__(aten.eq.Tensor, (), (first, second)),)
            )
        is_same = self._identities.identify(first) == self._identities.identify(second)
        return is_same or bool(self.assumptions.read(aten.equal.default, (first, second)))

    def _run_op(self, op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what an op returns."""
        if op.only_changes_lists and args[0] and args[0][0].is_meta:
            return None
        if op.returns_new_tensors:
            return self._results.run(func, op.result, args, kwargs)
        return op.result(*args, **kwargs)

    def __enter__(self) -> Tracer:
        """Start watching ops and modules."""
        self._mark = Mark()
        begin_block(self._mark)
        restore_module_hooks_at_end()
        register_module_forward_pre_hook(self._enter_module)
        register_module_forward_hook(self._leave_module, always_call=True)
        call_at_end(self._stop)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        """Stop watching."""
        restore_block(self._mark)

    def _stop(self) -> None:
        """Take the mode off the stack of active ones, if it is there."""
        if any(mode is self for mode in dispatch_mode_stack()):
            super().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def _enter_module(self, module: nn.Module, _inputs: Any) -> None:
        """Note which module is at work."""
        self._modules.append(self._names.get(module, self._modules[-1]))
        self._categories.enter_module(module)

    def _leave_module(self, _module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        """Note that its caller is at work again."""
        self._modules.pop()

    # --- recording ----------------------------------------------------------------------------------------------------

    def _record(self, kind: EventKind, block: int, size: int, op: str) -> None:
        self._events.append((kind, block, size, self._phase, self._step, self._modules[-1], op))

    def _see(self, tensor: Tensor, op: str) -> int:
        """Return the block of a tensor, allocating it when it is seen for the first time."""
        storage = tensor.untyped_storage()
        key = storage_address(storage)
        block = self._blocks.get(key)
        if block is None:
            block = self._allocate(storage.nbytes(), op)
            self._categories.find(block, tensor, op, self._modules[-1])
            self._watch(storage, block)
        return block

    def _watch(self, storage: Any, block: int) -> None:
        """Say which block a storage is, until it ends."""
        key = storage_address(storage)
        watched = self._watched[key] = _Watched(storage, self._forget)
        watched.key, self._blocks[key] = key, block

    def _bring(self, value: Tensor, op: str) -> None:
        """Record a number that comes from the CPU to the GPU."""
        key = storage_address(value.untyped_storage())
        if self._blocks.get(key) == _ON_HOST:
            self._blocks[key] = self._allocate(value.untyped_storage().nbytes(), op)

    def _allocate(self, size: int, op: str) -> int:
        """Record a new block."""
        if len(self._events) >= _MOST_EVENTS:
            raise RuntimeError(f"the step makes more than {_MOST_EVENTS:,} allocations and frees")
        block = self._count
        self._count += 1
        self._sizes[block] = size
        self._record(EventKind.ALLOCATE, block, size, op)
        return block

    def _forget(self, watched: _Watched) -> None:
        """Record the end of a storage."""
        del self._watched[watched.key]
        block = self._blocks.pop(watched.key)
        self.assumptions.forget(watched.key)
        if block != _ON_HOST:
            self._release(block)

    def _release(self, block: int) -> None:
        """Record the end of a block."""
        self._record(EventKind.FREE, block, self._sizes.pop(block), "")

    def _see_outputs(self, result: Any, op: str) -> None:
        """Record the outputs of an op that are new."""
        for leaf in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            # What model code makes on the CPU is none of a GPU's; without one it is memory like any other.
            if isinstance(leaf, Tensor) and (leaf.is_meta or not self._on_cuda):
                self._see(leaf, op)

    def _run_kernel(self, kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, op: str) -> None:
        """Record the outputs of an op with what its CUDA kernel takes beside them."""
        if not kernel.allocates_outputs:
            self._see_outputs(result, op)
        scratch = KernelScratch(self._platform, self._allocate, self._release, self._see_outputs, result, op)
        kernel.rule(scratch, *args, **kwargs)
        scratch.close()

    def _take_workspaces(self, func: Any, args: tuple[Any, ...]) -> None:
        """Record the workspaces of the libraries that an op uses, where this is the first time."""
        self._take_workspace("cublas", self._platform.blas_workspace_bytes)
        if func in LT_OPS and self._platform.blas_lt_workspace_bytes and args[0].dim() == 1:
            self._take_workspace("cublaslt", self._platform.blas_lt_workspace_bytes)

    def _take_workspace(self, library: str, size: int) -> None:
        """Record the workspace of a handle when it is used first; autograd's thread has handles of its own."""
        key = (library, current_autograd_node() is not None)
        if key not in self._workspaces:
            self._workspaces.add(key)
            self._categories.assign(self._allocate(size, f"{library} workspace"), Category.OTHER)

    def _close_phase(self) -> None:
        """Let the categories see what the phase left alive."""
        for gradient in self._categories.gradients():
            self._categories.assign(self._see(gradient, "gradient"), Category.GRADIENTS)
        for tensor in self._categories.cached():
            if tensor.is_meta:
                self._categories.assign(self._see(tensor, "cache"), Category.KV_CACHE)
        self._categories.close(block for block in self._sizes if block >= self._started)


class _Watched(weakref.ref[Any]):
    """A storage that is watched until it ends, and the key that the tracer knows it by.

    What `weakref.finalize` does, without its registry and its atexit hook, which cost more than some ops.
    """

    __slots__ = ("key",)
    key: int
