"""Which tensors hold the same numbers although nobody knows them: views of the same memory, and copies of those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from inspector.compat.torch import storage_address

__all__ = ["Identities"]


class Identities:
    """What the numbers of tensors are known by, under the `blocks` that a trace has given to their memory."""

    def __init__(self, blocks: Mapping[int, int]) -> None:
        self._blocks = blocks
        self._origins: dict[int, tuple[Any, ...]] = {}

    def note_copy(self, source: Tensor, copy: Tensor) -> None:
        """Note that a tensor was copied into memory of its own."""
        block = self._blocks.get(storage_address(copy.untyped_storage()))
        if block is not None:
            self._origins[block] = self.identify(source)

    def identify(self, tensor: Tensor) -> tuple[Any, ...]:
        """Return what the numbers of a tensor are known by: the same for two that are equal for sure."""
        block = self._blocks.get(storage_address(tensor.untyped_storage()))
        origin = block if block is None else self._origins.get(block, block)
        return origin, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
