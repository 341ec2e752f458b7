"""Whether DeepSpeed is there to run its own code, without loading it, and in which order that frees parameters.

ZeRO-3 has the parameters that a module lets go of in sets, whose members are in the order of their addresses: which
piece is free before which differs from one run to the next, and with it where later blocks lie and how much of them
counts (0.19: zero/partitioned_param_coordinator.py, `release_sub_module`; zero/parameter_offload.py). Sets that keep
the order in which members came have them in the order of the model: one of those that a real run may have.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Iterator, MutableSet
from typing import Any

from inspector.runtime.patches import replace_item

__all__ = ["has_deepspeed", "release_in_order"]

_HOLDERS = ("partitioned_param_coordinator", "parameter_offload")


def has_deepspeed() -> bool:
    """Tell whether DeepSpeed is installed, whose own code runs its stages."""
    return importlib.util.find_spec("deepspeed") is not None


class _SetInOrder(MutableSet[Any]):
    """A set whose members are in the order in which they came."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: Any) -> None:
        """Take a member in."""
        self._items[value] = None

    def discard(self, value: Any) -> None:
        """Let a member go, if it is one."""
        self._items.pop(value, None)

    def update(self, items: Iterable[Any]) -> None:
        """Take members in."""
        self._items.update(dict.fromkeys(items))


def release_in_order() -> None:
    """Have ZeRO-3 let go of parameters in the order of the model, until the innermost block of changes ends."""
    for name in _HOLDERS:
        replace_item(vars(importlib.import_module(f"deepspeed.runtime.zero.{name}")), "set", _SetInOrder)
