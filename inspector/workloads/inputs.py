"""What a batch is made of: tensors that can be made on meta for a trace and with data for a real step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "BatchError",
    "Input",
    "Inputs",
    "Item",
    "begin_rows",
    "list_inputs",
    "make_item",
    "map_tensors",
    "repeat_rows",
]

# From here on equal values are kept as one.
_MANY = 2**20


class BatchError(Exception):
    """No batch can be made for this model; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One tensor of a batch: `value` everywhere, but `last` at the end of the last sequence where it is not None.

    `first` is the same at the beginning of that sequence. `make` makes the tensor on the CPU where its values are no
    such ones. `is_read`: a class reads its values although they are floating-point numbers.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.int64
    value: int = 0
    last: int | None = None
    first: int | None = None
    make: Callable[[], Tensor] | None = None
    is_read: bool = False

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
        if is_uniform and (self.is_read or math.prod(self.shape) > _MANY):
            return torch.tensor(self.value, dtype=self.dtype).expand(self.shape)
        return self.on("cpu")


# A number or a bool is an argument that takes no memory; a sequence holds a tensor for each row, or a mapping of some,
# as labels of detection do; a mapping holds tensors by name, or some of each name.
Item = Input | int | Sequence[Input] | Sequence[Mapping[str, Input]] | Mapping[str, Sequence[Input]]
Inputs = Mapping[str, Item]


def list_inputs(inputs: Inputs) -> Iterator[tuple[str, Input]]:
    """Yield the tensors of a batch; those that each row has are one, with a dimension for the rows in front."""
    for name, item in inputs.items():
        if isinstance(item, Input):
            yield name, item
        elif isinstance(item, Mapping):
            for key, parts in item.items():
                for place, part in enumerate(parts):
                    yield f"{name}.{key}.{place}", part
        elif isinstance(item, Sequence) and item:
            row = item[0]
            of_row = {name: row} if isinstance(row, Input) else {f"{name}.{key}": part for key, part in row.items()}
            for key, part in of_row.items():
                yield key, replace(part, shape=(len(item), *part.shape), make=None)


def make_item(item: Item, make: Callable[[Input], Tensor]) -> Any:
    """Return what a model is given for an item, its tensors made by `make`."""
    if isinstance(item, Input):
        return make(item)
    if isinstance(item, Mapping):
        return {name: [make(part) for part in parts] for name, parts in item.items()}
    if isinstance(item, Sequence):
        return [
            make(row) if isinstance(row, Input) else {name: make(part) for name, part in row.items()} for row in item
        ]
    return item


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value of a batch with its tensors changed."""
    if isinstance(value, list):
        return [map_tensors(row, change) for row in value]
    if isinstance(value, dict):
        return {name: map_tensors(part, change) for name, part in value.items()}
    return change(value) if isinstance(value, Tensor) else value


def begin_rows(shape: tuple[int, ...], rest: int, first: int, count: int) -> Tensor:
    """Return rows of one number that begin with so many of another."""
    rows = torch.full(shape, rest, dtype=torch.int64)
    rows[:, :count] = first
    return rows


def repeat_rows(count: int, values: tuple[int, ...]) -> Input:
    """Return a tensor of `count` equal rows of numbers."""
    return Input(shape=(count, len(values)), make=lambda: torch.tensor([values] * count, dtype=torch.int64))
