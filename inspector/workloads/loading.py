"""The order in which loading and attaching make the tensors of a model: base weights, buffers, then what PEFT added."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from inspector.model.build import BuiltModel
from inspector.records.model import Role
from inspector.records.tape import Category
from inspector.trace.categories import find_category

__all__ = ["ADDED", "list_in_load_order"]

# Roles of parameters that exist only once an adapter is attached.
ADDED = (Role.ADAPTER, Role.SAVED_COPIES)


def list_in_load_order(built: BuiltModel) -> Iterator[tuple[str, Tensor, Category]]:
    """Yield the parameters and buffers with their names and categories in the order in which they are made."""
    parameters = list(built.model.named_parameters())
    for name, tensor in parameters:
        if built.roles[name] not in ADDED:
            yield name, tensor, find_category(built.roles[name])
    yield from ((name, tensor, Category.BUFFERS) for name, tensor in built.model.named_buffers())
    for name, tensor in parameters:
        if built.roles[name] in ADDED:
            yield name, tensor, find_category(built.roles[name])
