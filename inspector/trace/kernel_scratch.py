"""What one kernel takes beside its outputs, as its rule tells it, on the tape of a tracer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inspector.hardware.platform import Platform

__all__ = ["KernelScratch"]


class KernelScratch:
    """The blocks of one kernel (`inspector.trace.kernels.Scratch`).

    `allocate` and `release` record a block and its end, `see_outputs` the outputs of an op that are new.
    """

    def __init__(
        self,
        platform: Platform,
        allocate: Callable[[int, str], int],
        release: Callable[[int], None],
        see_outputs: Callable[[Any, str], None],
        result: Any,
        op: str,
    ) -> None:
        self.platform = platform
        self._allocate, self._release, self._see_outputs = allocate, release, see_outputs
        self._result = result
        self._op = op
        self._held: list[int] = []

    def take(self, size_bytes: int) -> int:
        """Record a block."""
        block = self._allocate(size_bytes, self._op)
        self._held.append(block)
        return block

    def give(self, block: int) -> None:
        """Record its end."""
        self._held.remove(block)
        self._release(block)

    def outputs(self, *order: int) -> None:
        """Record outputs; those that are left out lie on the CPU."""
        self._see_outputs([self._result[place] for place in order] if order else self._result, self._op)

    def close(self) -> None:
        """Record the end of all that is still held, the last one first."""
        for block in reversed(self._held):
            self._release(block)
