"""A copy of a model on meta, so that a run can change it and the next one starts anew."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, TypeVar

import torch
from torch import Tensor, UntypedStorage, nn

from inspector.compat.numbers import pass_number_on
from inspector.compat.torch import accumulate_hooks_of, backward_hooks_of, storage_address

Model = TypeVar("Model", bound=nn.Module)

__all__ = ["copy_model", "has_gradient_hooks"]


def has_gradient_hooks(model: nn.Module) -> bool:
    """Tell whether gradients go through hooks, which no copy has: OSF projects them."""
    return any(backward_hooks_of(item) or accumulate_hooks_of(item) for item in model.parameters())


def copy_model(model: Model) -> Model:
    """Return a copy of a model, with the memory that its tensors share or leave unused, and what was written onto them.

    torch copies a tensor of the meta device alone, without what else its memory holds (OFT's rows and columns are two
    views of one tensor), and parameters without their attributes. Packed weights copy themselves.
    """
    # Each module has eleven dicts of hooks, empty mostly, which take a third of the time where they are copied.
    hooks = (value for module in model.modules() for value in vars(module).values() if type(value) is OrderedDict)
    memo: dict[int, Any] = {id(table): OrderedDict() for table in hooks if not table}
    storages: dict[int, UntypedStorage] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if type(tensor) in (Tensor, nn.Parameter) and tensor.is_meta:
            old = tensor.untyped_storage()
            new = storages.setdefault(storage_address(old), UntypedStorage(old.nbytes(), device="meta"))
            copied_tensor = torch.empty(0, dtype=tensor.dtype, device="meta")
            copied_tensor.set_(new, tensor.storage_offset(), tensor.shape, tensor.stride())
            memo[id(tensor)] = (
                copied_tensor if type(tensor) is Tensor else nn.Parameter(copied_tensor, tensor.requires_grad)
            )
    copied = copy.deepcopy(model, memo)
    for original, parameter in zip(model.parameters(), copied.parameters(), strict=True):
        for name, value in vars(original).items():
            if not hasattr(parameter, name):
                setattr(parameter, name, value)
    for kept, buffer in zip(model.buffers(), copied.buffers(), strict=True):
        pass_number_on(kept, buffer)
    return copied
