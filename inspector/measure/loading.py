"""A model on meta -> the same model on a device, with random weights, tensor by tensor in the order of the tape.

The modules, hooks and PEFT's wrappers stay as they are; each parameter and buffer is replaced by one with data. Nothing
is drawn or computed on the way that would take memory of its own there, so that the allocator sees the events of the
tape and nothing else.

Weights are drawn from a narrow normal distribution, vectors are ones (norms) or zeros (biases). Buffers have the values
that the model's class gives them, computed on the CPU: positions and rotary frequencies are right, and an integer for
which the class has no rule is 0, which every table has a row for.

Not covered: tensors that a class keeps outside parameters and buffers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from inspector.compat.torch import buffers_of, parameters_of, storage_address
from inspector.compat.transformers import INITIALIZED_MARK
from inspector.model.build import BuiltModel
from inspector.workloads.base import base_model
from inspector.workloads.loading import list_in_load_order

__all__ = ["DEVIATION", "load_model"]

# The standard deviation that most configurations name (initializer_range).
DEVIATION = 0.02
Place: TypeAlias = Callable[[str, Tensor, Tensor | None, torch.device], Tensor]


@torch.no_grad()
def load_model(built: BuiltModel, device: torch.device, place: Place | None = None) -> None:
    """Put every parameter and buffer of a model on meta onto `device`; `place` makes each, given its value if known."""
    place = place or _place_tensor
    model: nn.Module = built.model
    values = _compute_buffer_values(base_model(model))
    placed: dict[int, Tensor] = {}
    storages: dict[tuple[int, torch.Size, torch.dtype], Tensor] = {}
    for name, tensor, _ in list_in_load_order(built):
        storage = (storage_address(tensor.untyped_storage()), tensor.shape, tensor.dtype)
        if storage not in storages:
            storages[storage] = place(name, tensor, values.get(id(tensor)), device)
        placed[id(tensor)] = _wrap_tensor(tensor, storages[storage])
    for module in model.modules():
        tables: tuple[dict[str, Any], ...] = (parameters_of(module), buffers_of(module))
        for table in tables:
            for key, old in table.items():
                if old is not None:
                    table[key] = placed[id(old)]


def _place_tensor(name: str, tensor: Tensor, value: Tensor | None, device: torch.device) -> Tensor:
    """Return a tensor like `tensor` on `device`, with `value` where it has one."""
    new = torch.empty_like(tensor, device=device)
    if tensor.device.type != "meta":  # PEFT computes indices of some methods
        return new.copy_(tensor)
    if value is not None:
        return new.copy_(value)
    if not new.is_floating_point():
        return new.zero_()
    if new.dim() > 1:
        return new.normal_(0.0, DEVIATION)
    return new.fill_(1.0 if name.endswith("weight") else 0.0)


def _wrap_tensor(old: Tensor, new: Tensor) -> Any:
    """Return `new` as what `old` is to the modules that share it."""
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _compute_buffer_values(base: Any) -> dict[int, Tensor]:
    """Return, by the identity of each buffer on meta, the value that the model's class gives it."""
    buffers = [
        (module, name, buffer)
        for module in base.modules()
        for name, buffer in buffers_of(module).items()
        if buffer is not None and buffer.device.type == "meta"
    ]
    if not buffers or not hasattr(base, "initialize_weights"):
        return {}
    real = {id(buffer): torch.zeros_like(buffer, device="cpu") for _, _, buffer in buffers}
    with _initialize_buffers_alone(base):
        try:
            for module, name, buffer in buffers:
                buffers_of(module)[name] = real[id(buffer)]
            with contextlib.suppress(NotImplementedError, AttributeError):  # a layer that its class cannot initialise
                base.initialize_weights()
            return {id(buffer): getattr(module, name) for module, name, buffer in buffers}
        finally:
            for module, name, buffer in buffers:
                buffers_of(module)[name] = buffer


@contextlib.contextmanager
def _initialize_buffers_alone(base: nn.Module) -> Iterator[None]:
    """Let transformers take parameters for initialised and modules for not yet, inside the block."""
    flagged: list[tuple[Any, Any]] = []
    wanted = [*((parameter, True) for parameter in base.parameters()), *((module, False) for module in base.modules())]
    for holder, flag in wanted:
        flagged.append((holder, holder.__dict__.get(INITIALIZED_MARK)))
        holder.__dict__[INITIALIZED_MARK] = flag
    try:
        yield
    finally:
        for holder, before in flagged:
            if before is None:
                holder.__dict__.pop(INITIALIZED_MARK, None)
            else:
                holder.__dict__[INITIALIZED_MARK] = before
