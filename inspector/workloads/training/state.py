"""The state that an optimizer keeps, without a traced step: its own code updates one parameter of each kind.

What a kind is (`records.model.TensorKind`) decides the state: parameters of one dtype and shape have the same, but for
embeddings under an 8-bit optimizer. State in managed memory is none of torch's allocator and is not counted, nor are
the tables that 8-bit optimizers share (1 KiB each).
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inspector.errors import UsageError
from inspector.hardware.platform import Platform
from inspector.records.model import TensorKind
from inspector.records.recipe import Recipe
from inspector.trace.rules.any_device import treat_meta_as_device
from inspector.trace.rules.cuda import apply_cuda_rules
from inspector.trace.tracer import Tracer
from inspector.workloads.training.optimizers import build_optimizer

__all__ = ["count_state_bytes"]


def count_state_bytes(tensors: Mapping[TensorKind, int], recipe: Recipe, platform: Platform) -> int:
    """Return the bytes of an optimizer's state on the GPU, for so many trained parameters of each kind."""
    with apply_cuda_rules(platform, recipe.sdpa_backend), treat_meta_as_device(), Tracer(platform):
        return sum(count * _count_bytes(kind, recipe) for kind, count in tensors.items())


def _count_bytes(kind: TensorKind, recipe: Recipe) -> int:
    """Return the bytes of state that the first update makes for a parameter of a kind."""
    if recipe.optimizer == "lorafa":  # AdamW's two moments of all but the matrices A, which it freezes
        size = torch.Size(kind.shape).numel() * getattr(torch, kind.dtype).itemsize
        return 0 if "lora_A" in kind.name else 2 * size
    *path, own_name = kind.name.split(".")
    parameter = nn.Parameter(torch.empty(kind.shape, dtype=getattr(torch, kind.dtype), device="meta"))
    model: nn.Module = nn.Module()
    if kind.is_embedding:
        model = nn.Embedding(1, 1, device="meta")
    elif own_name == "weight" and len(kind.shape) == 2:
        model = nn.Linear(1, 1, bias=False, device="meta")
    setattr(model, own_name, parameter)
    for part in reversed(path or ["owner"]):
        outer = nn.Module()
        outer.add_module(part, model)
        model = outer
    size = kind.head_elements
    setattr(model, "config", types.SimpleNamespace(hidden_size=size, num_attention_heads=size))  # noqa: B010  # no module
    parameter.grad = torch.empty_like(parameter)
    optimizer = build_optimizer(model, recipe)
    with contextlib.suppress(UsageError):  # what an update refuses is for the traced step to say; the state is made
        optimizer.step()
    # GaLore's singular vectors of float32 are a part of a tensor that stays.
    return sum(item.untyped_storage().nbytes() for item in _list_tensors(optimizer.state[parameter]))


def _list_tensors(state: Any) -> Iterator[Tensor]:
    """Yield the tensors of a parameter's state that lie on the GPU."""
    if isinstance(state, Tensor):
        if state.device.type == "meta":
            yield state
    elif isinstance(state, (Mapping, list, tuple)):
        for item in state.values() if isinstance(state, Mapping) else state:
            yield from _list_tensors(item)
