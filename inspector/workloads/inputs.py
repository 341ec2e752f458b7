"""What a batch is made of: tensors that can be made on meta for a trace and with data for a real step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BatchError", "Input", "Inputs"]

# From here on equal values are kept as one.
_MANY = 2**20


class BatchError(Exception):
    """No batch can be made for this model; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One tensor of a batch: `value` everywhere, but `last` at the end of the last sequence where it is not None.

    `first` is the same at the beginning of that sequence. `make` makes the tensor on the CPU where its values are no
    such ones.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.int64
    value: int = 0
    last: int | None = None
    first: int | None = None
    make: Callable[[], Tensor] | None = None

    def on(self, device: str) -> Tensor:
        """Return the tensor on a device."""
        if self.make is not None and device != "meta":
            return self.make().to(device)
        tensor = torch.full(self.shape, self.value, dtype=self.dtype, device=device)
        if self.last is not None:
            tensor[-1, -1] = self.last
        if self.first is not None:
            tensor[-1, 0] = self.first
        return tensor

    def list_values(self) -> Tensor:
        """Return the values for whoever reads them: a view of one number where there are many equal ones."""
        is_uniform = self.make is None and self.last is None and self.first is None
        if is_uniform and math.prod(self.shape) > _MANY:
            return torch.tensor(self.value, dtype=self.dtype).expand(self.shape)
        return self.on("cpu")


# A number or a bool is an argument that takes no memory.
Inputs = Mapping[str, "Input | int"]
