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

_PLAIN_TYPES = frozenset((type(None), bool, int, float, str, torch.dtype, torch.Size))
_TABLES = frozenset((OrderedDict, dict, list, set))


def has_gradient_hooks(model: nn.Module) -> bool:
    """Tell whether gradients go through hooks, which no copy has: OSF projects them."""
    return any(backward_hooks_of(item) or accumulate_hooks_of(item) for item in model.parameters())


def copy_model(model: Model) -> Model:
    """Return a copy of a model, with the memory that its tensors share or leave unused, and what was written onto them.

    torch copies a tensor of the meta device alone, without what else its memory holds (OFT's rows and columns are two
    views of one tensor), and parameters without their attributes. Packed weights copy themselves.
    """
    memo: dict[int, Any] = {}
    storages: dict[int, UntypedStorage] = {}
    parameters, buffers = list(model.parameters()), list(model.buffers())
    for tensor in (*parameters, *buffers):
        if type(tensor) in (Tensor, nn.Parameter) and tensor.is_meta:
            old = tensor.untyped_storage()
            new = storages.setdefault(storage_address(old), UntypedStorage(old.nbytes(), device="meta"))
            copied_tensor = torch.empty(0, dtype=tensor.dtype, device="meta")
            copied_tensor.set_(new, tensor.storage_offset(), tensor.shape, tensor.stride())
            memo[id(tensor)] = (
                copied_tensor if type(tensor) is Tensor else nn.Parameter(copied_tensor, tensor.requires_grad)
            )
    copied = _copy_modules(model, memo)
    for original, parameter in zip(parameters, copied.parameters(), strict=True):
        for name, value in vars(original).items():
            if not hasattr(parameter, name):
                setattr(parameter, name, value)
    for kept, buffer in zip(buffers, copied.buffers(), strict=True):
        pass_number_on(kept, buffer)
    return copied


def _copy_modules(model: Model, memo: dict[int, Any]) -> Model:
    """Return what `copy.deepcopy(model, memo)` does, which takes three times as long.

    A module is mostly numbers, empty tables of hooks and other modules, of which each has some twenty. Those that say
    themselves how they are copied do so.
    """
    modules = list(model.modules())
    kinds = {kind for kind in set(map(type, modules)) if _is_copied_by_attributes(kind)}
    plain = [module for module in modules if type(module) in kinds]
    for module in plain:
        memo[id(module)] = type(module).__new__(type(module))
    for module in plain:
        state = vars(memo[id(module)])
        for name, value in vars(module).items():
            kind = type(value)
            if kind in _PLAIN_TYPES:
                state[name] = value
            elif (known := memo.get(id(value))) is not None:
                state[name] = known
            elif kind in _TABLES and not value:
                state[name] = memo[id(value)] = kind()
            elif kind is dict and all(type(key) is str for key in value):
                table: dict[str, Any] = {}
                state[name] = memo[id(value)] = table
                for key, item in value.items():
                    known = memo.get(id(item))
                    table[key] = copy.deepcopy(item, memo) if known is None else known
            else:
                state[name] = copy.deepcopy(value, memo)
    return copy.deepcopy(model, memo)


def _is_copied_by_attributes(kind: type[nn.Module]) -> bool:
    """Tell whether a class of modules is copied as nn.Module is: attribute by attribute."""
    names = ("__getstate__", "__setstate__", "__reduce__", "__reduce_ex__", "__new__", "__getnewargs_ex__")
    is_as_module = all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in names)
    return is_as_module and not hasattr(kind, "__deepcopy__")
