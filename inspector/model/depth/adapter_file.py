"""The size of a deep model's adapter file: that of its tensors, and of a header in which each of them is named.

The header grows with the digits of names and offsets, so that the tensors of the whole model are listed: those that two
shallow ones have, each layer's as often as it repeats.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import PeftModel

from inspector.model.adapter.describe import gather_saved_state, measure_state
from inspector.model.depth.records import NotPeriodicError, Periods

__all__ = ["extrapolate_adapter_file"]

_State = Mapping[str, torch.Tensor]


def extrapolate_adapter_file(shallow: PeftModel, deeper: PeftModel, periods: Periods, times: int) -> int:
    """Return the bytes of the file of a model that has `times` periods more than the shallow one.

    The deeper one has one more. Raises NotPeriodicError where the two do not say it.
    """
    state, further = gather_saved_state(shallow), gather_saved_state(deeper)
    if state is None or further is None:
        raise NotPeriodicError("adapter file")
    repeated = _repeat(state, further, periods, 1)
    if {name: _describe(tensor) for name, tensor in repeated.items()} != {
        name: _describe(tensor) for name, tensor in further.items()
    }:
        raise NotPeriodicError("adapter file")
    return measure_state(_repeat(state, further, periods, times))


def _repeat(state: _State, further: _State, periods: Periods, times: int) -> dict[str, torch.Tensor]:
    """Return the tensors of a model with so many periods more; one of all layers together grows with each."""
    found = {}
    for name, tensor in state.items():
        parts = periods.split(name)
        if parts is None:
            found[name] = _grow(name, tensor, further, times)
            continue
        before, layer, rest = parts
        if not layer.isdecimal():
            raise NotPeriodicError(name)
        for index in periods.repeat(int(layer), times):
            found[f"{before}{index}{rest}"] = tensor
    return found


def _grow(name: str, tensor: torch.Tensor, further: _State, times: int) -> torch.Tensor:
    """Return a tensor that is in no layer as it is with so many periods more."""
    other = further.get(name)
    if other is None or other.dim() != tensor.dim():
        raise NotPeriodicError(name)
    if other.shape == tensor.shape:
        return tensor
    shape = [size + times * (larger - size) for size, larger in zip(tensor.shape, other.shape, strict=True)]
    return torch.empty(shape, dtype=tensor.dtype, device="meta")


def _describe(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    """Return what a file says of a tensor."""
    return tensor.shape, tensor.dtype
