"""What a trace knows of an op, looked up once: how its results come about and what its kernel takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from inspector.compat.torch import schema_of
from inspector.trace.kernels import KERNELS, WORKSPACE_OPS, Kernel
from inspector.trace.meta_cache import only_changes_lists, returns_new_tensors
from inspector.trace.meta_kernels import META_KERNELS
from inspector.trace.mode_effects import RUN_OTHERWISE
from inspector.trace.rules.host_values import follows_values

__all__ = ["BRINGING", "INDEXING", "MASKED", "READING", "SELECTING", "Op", "look_up"]

aten = torch.ops.aten

INDEXING = frozenset({aten.index.Tensor, aten.index_put_.default})
MASKED = INDEXING | {aten.index_put.default}
SELECTING = frozenset({aten.masked_select.default, aten.masked_scatter_backward.default})
# Ops that return a number to Python.
READING = frozenset({aten._local_scalar_dense.default, aten.equal.default})
# Ops that bring such numbers to the GPU, with the places of their arguments.
BRINGING = {aten.index_put_.default: (2,), aten.where.self: (1, 2)}
_SPECIAL = frozenset(
    {
        *(*MASKED, *SELECTING, *READING, *BRINGING, *RUN_OTHERWISE),
        *(aten.add.Tensor, aten.nonzero.default, aten.clone.default, aten.scalar_tensor.default),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """What the tracer knows of an op; `changes_first` says that it writes into its first argument.

    One that `is_special` may run as others do, return what is read, or bring something from the host: few do.
    """

    name: str
    is_special: bool
    result: Callable[..., Any]
    returns_new_tensors: bool
    only_changes_lists: bool
    changes_first: bool
    kernel: Kernel | None
    takes_workspace: bool
    follows_values: bool


# What is looked up stays: there are no more entries than torch has ops.
_OPS: dict[Any, Op] = {}


def look_up(func: Any) -> Op:
    """Return what is known of an op."""
    return _OPS.get(func) or _look_up(func)


def _look_up(func: Any) -> Op:
    """Look an op up in the registries."""
    arguments = schema_of(func).arguments
    written = arguments[0].alias_info if arguments and str(arguments[0].type) == "Tensor" else None
    return _OPS.setdefault(
        func,
        Op(
            name=str(func),
            is_special=func in _SPECIAL,
            result=META_KERNELS.get(func, func),
            returns_new_tensors=returns_new_tensors(func),
            only_changes_lists=only_changes_lists(func),
            changes_first=written is not None and written.is_write,
            kernel=KERNELS.get(func),
            takes_workspace=func in WORKSPACE_OPS,
            follows_values=follows_values(func),
        ),
    )
