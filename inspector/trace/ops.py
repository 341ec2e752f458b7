"""What a trace knows of an op, looked up once: how its results come about and what its kernel takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inspector.compat.torch import schema_of
from inspector.trace.kernels import KERNELS, WORKSPACE_OPS, Kernel
from inspector.trace.meta_cache import only_changes_lists, returns_new_tensors
from inspector.trace.meta_kernels import META_KERNELS
from inspector.trace.rules.host_values import follows_values

__all__ = ["Op", "look_up"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """What the tracer knows of an op; `changes_first` says that it writes into its first argument."""

    name: str
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
            result=META_KERNELS.get(func, func),
            returns_new_tensors=returns_new_tensors(func),
            only_changes_lists=only_changes_lists(func),
            changes_first=written is not None and written.is_write,
            kernel=KERNELS.get(func),
            takes_workspace=func in WORKSPACE_OPS,
            follows_values=follows_values(func),
        ),
    )
