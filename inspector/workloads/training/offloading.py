"""Activations in host memory: what TRL's `OffloadActivations` keeps on the GPU, and for how long, without the package.

Written after TRL 1.16, models/activation_offloading.py, with its defaults (a stream of its own, pinned memory). What
autograd saves is copied to the host, unless it is a parameter, of less than 1,024 bytes, or of a storage that waits
already. The last five saved tensors stay on the GPU until their copies are sure to be over. In the backward pass a
tensor that is asked for is copied back, and lives until the node after the one that asked has run. What the head saves
stays where it is, if it is called: losses that read its weight alone go by. tests/workloads/test_offloading.py holds it
against the real class on the CPU, event by event.

Not covered: that the copies back are allocated for another stream, whose cached blocks no other one gets, so that
a real step may reserve more; and FP8 and sharded tensors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from inspector.compat.torch import (
    call_after_backward,
    current_autograd_node,
    current_graph_task,
    storage_address,
    storage_use_count,
)
from inspector.errors import UsageError
from inspector.records.memory import Unaccounted
from inspector.records.recipe import Offload, Recipe
from inspector.records.steps.losses import LossName
from inspector.trace.host import HostTensor, find_tracer
from inspector.workloads.base import base_model
from inspector.workloads.quantized_load import is_quantized

__all__ = ["COPY_STREAM", "OffloadActivations", "keep_activations"]

_SMALLEST_BYTES = 1024
_KEPT_ON_GPU = 5
# Where models have their head, in TRL's order.
_HEADS = ("output", "lm_head", "decoder.output", "decoder.lm_head", "final_layer_norm", "ln_f", "head")
COPY_STREAM = Unaccounted(
    what="segments of the stream that copies activations back",
    why="the allocator keeps a stream's cached blocks to itself; the figures are those of one stream",
)

_Key = tuple[int, int, torch.dtype]
Around = Callable[[], contextlib.AbstractContextManager[Any]]


def keep_activations(model: nn.Module, recipe: Recipe) -> Around:
    """Return what a loop enters around the forward and the backward pass of a micro-batch."""
    if recipe.offload != Offload.ACTIVATIONS:
        return contextlib.nullcontext
    if next(model.parameters()).device.type == "meta":
        return _enter_again(OffloadActivations(model, calls_head=recipe.loss == LossName.STOCK))
    try:
        from trl.models import get_act_offloading_ctx_manager  # type: ignore[import-not-found]  # asked for alone
    except ImportError as error:
        raise UsageError(
            "`offload` activations runs for real with TRL's class alone: install trl, or drop it."
        ) from error
    return _enter_again(get_act_offloading_ctx_manager(model=model))


def _enter_again(context: Any) -> Around:
    """Return a function that returns one context each time."""
    return lambda: context


class _Saved:
    """A tensor that autograd saved: as it is, or its copy on the host with what makes a view of the copy."""

    def __init__(self, tensor: Any, view: tuple[torch.Size, tuple[int, ...], int] | None = None) -> None:
        self.tensor = tensor
        self.view = view


class OffloadActivations(saved_tensors_hooks):
    """Keep what autograd saves inside the block on the host, for one forward and backward pass after the other.

    `calls_head` says whether the head is called, whose tensors then stay.
    """

    def __init__(self, model: nn.Module, *, calls_head: bool = True) -> None:
        self._device = next(model.parameters()).device.type
        self._is_packed = is_quantized(base_model(model))
        self._parameters = {storage_address(item.untyped_storage()) for item in model.parameters()}
        self._count = 0
        self._saved: dict[int, _Saved] = {}
        self._waiting: dict[_Key, int] = {}
        self._keys: dict[int, _Key] = {}
        self._leaving: dict[int, Tensor] = {}
        self._returned: dict[int, Tensor] = {}
        self._done: set[int] = set()
        self._is_first_forward = self._is_first_backward = True
        self._task: int | None = None
        self._node: Any = None
        super().__init__(self._pack, self._unpack)
        for head in _list_heads(model) if calls_head else ():
            _leave_alone(head)

    def __enter__(self) -> None:
        """Begin a pass: what an earlier one left behind is gone."""
        for kept in (self._saved, self._waiting, self._keys, self._returned, self._done, self._leaving):
            kept.clear()
        self._count = 0
        self._is_first_forward = self._is_first_backward = True
        tracer = find_tracer()
        if self._is_packed and tracer is not None:  # TRL gives cached blocks back where bitsandbytes is loaded
            tracer.empty_cache()
        super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        """End it."""
        for kept in (self._returned, self._done, self._leaving):
            kept.clear()
        super().__exit__(*exception)

    def _copy_to_host(self, tensor: Tensor, elements: int | None) -> Any:
        """Return the copy of a tensor, or of all elements of its storage."""
        return HostTensor(tensor, elements)

    def _copy_back(self, copy: Any) -> Tensor:
        """Return a copy on the GPU of what lies on the host."""
        tensor: Tensor = copy.copy_back()
        return tensor

    def _pack(self, tensor: Tensor) -> int:
        """Save a tensor, and return its number."""
        if self._is_first_forward:
            self._is_first_forward, self._is_first_backward = False, True
            self._waiting.clear()
            self._keys.clear()
        self._count = number = self._count + 1
        key = storage_address(tensor.untyped_storage()), int(tensor.storage_offset()), tensor.dtype
        if key in self._waiting:
            self._saved[number] = _Saved(tensor)
            self._track(key, number)
            return number
        if self._stays(tensor):
            self._saved[number] = _Saved(tensor)
            return number
        is_broadcast = 0 in tensor.stride()
        if not is_broadcast and tensor.storage_offset():
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        elif not is_broadcast:
            tensor = tensor.contiguous()
        last: Tensor | None = None  # as in TRL's loop the last one lives until the function ends
        for earlier in list(self._leaving):
            if earlier > number - _KEPT_ON_GPU:
                break
            last = self._let_go(earlier)
        elements = tensor.untyped_storage().nbytes() // tensor.element_size() if is_broadcast else None
        view = tensor.size(), tensor.stride(), int(tensor.storage_offset())
        self._saved[number] = _Saved(self._copy_to_host(tensor, elements), view)
        self._leaving[number] = tensor
        self._track(key, number)
        del tensor, last
        return number

    def _stays(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is none to move: of the CPU, small, a parameter or a part of one."""
        return (
            tensor.device.type != self._device
            or tensor.numel() * tensor.element_size() < _SMALLEST_BYTES
            or isinstance(tensor, (nn.Parameter, nn.Buffer))
            or storage_address(tensor.untyped_storage()) in self._parameters
        )

    def _track(self, key: _Key, number: int) -> None:
        self._waiting[key] = number
        self._keys[number] = key

    def _forget(self, number: int) -> None:
        """Let a storage be moved again."""
        key = self._keys.pop(number, None)
        if key is not None and self._waiting.get(key) == number:
            del self._waiting[key]

    def _let_go(self, number: int) -> Tensor:
        """Return a tensor whose copy is over, which nothing here holds any more."""
        tensor = self._leaving.pop(number)
        self._forget(number)
        return tensor

    def _unpack(self, number: int) -> Tensor:
        """Return a saved tensor."""
        if self._is_first_backward:
            self._task = current_graph_task()
            call_after_backward(self._drop_returned)
            self._is_first_backward = False
        saved = self._saved[number]
        tensor: Tensor = saved.tensor
        if saved.view is not None:
            tensor = self._bring_back(number, saved)
        del self._saved[number]
        self._forget(number)
        if not self._saved:
            self._is_first_forward = True
        return tensor

    def _bring_back(self, number: int, saved: _Saved) -> Tensor:
        """Return a tensor that has left, and say what the node that asked for it is followed by."""
        node: Any = current_autograd_node()
        before: list[int] = []
        if current_graph_task() == self._task and self._node != node:
            self._node = node
            before = list(self._returned)
        uses: int | None = None
        if number in self._leaving:
            tensor = self._leaving[number]
        else:
            assert saved.view is not None
            size, stride, offset = saved.view
            tensor = torch.as_strided(self._copy_back(saved.tensor), size, stride, offset)
            self._returned[number] = tensor
            uses = storage_use_count(storage_address(tensor.untyped_storage()))

        def end(outputs: Any, _inputs: Any) -> Any:
            self._end_node(number, uses, before)
            return outputs

        node.register_hook(end)
        return tensor

    def _end_node(self, number: int, uses: int | None, before: list[int]) -> None:
        """Drop what was there for a node that is over, and for those before it; two tensors live until the end."""
        tensor: Tensor | None = None
        last: Tensor | None = None
        if uses is not None and number in self._returned:
            tensor = self._returned[number]
            if storage_use_count(storage_address(tensor.untyped_storage())) > uses:
                del self._returned[number]  # a view of it lives on
            else:
                self._done.add(number)
        for earlier in list(self._leaving):
            last = self._let_go(earlier)
        for earlier in before:
            self._done.discard(earlier)
            self._returned.pop(earlier, None)
        del tensor, last

    def _drop_returned(self) -> None:
        """Drop what the last node had."""
        self._returned.clear()


class _LeaveAlone(saved_tensors_hooks):
    """Save tensors as they are inside the block (`NoOpManager`)."""

    def __init__(self) -> None:
        super().__init__(_return, _return)


def _return(tensor: Tensor) -> Tensor:
    return tensor


def _leave_alone(module: nn.Module) -> None:
    """Have whatever a module saves stay where it is."""
    context = _LeaveAlone()
    module.register_forward_pre_hook(lambda *_: context.__enter__())
    module.register_forward_hook(lambda *_: context.__exit__(), always_call=True)


def _list_heads(model: Any) -> Iterator[nn.Module]:
    """Yield the head of a model, as far as one is found."""
    inner = model.base_model if hasattr(model, "base_model") and hasattr(model, "peft_config") else model
    for path in _HEADS:
        found = inner
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, nn.Module):
            yield found
            return
