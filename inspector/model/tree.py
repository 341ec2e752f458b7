"""The module tree with identical layers folded: sixty-four decoder layers are one row.

Two children of one module list fold when their subtrees are equal: class, own parameters (name, shape, dtype,
trainable, counted here or shared), own buffers and children alike. A list itself is no row unless it holds parameters
of its own; its folded items stand at its level, so that the children of a row and the row's own parameters add up to
the row. PEFT's wrapping modules are no rows either: what they hold beside the model stands beside the model's own
children.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from torch import nn

from inspector.compat.torch import buffers_of, children_of, parameters_of
from inspector.model.adapter.peft_names import find_wrappers
from inspector.model.sizes import count_bytes, count_weights
from inspector.names import fold_indices
from inspector.records.model import TreeRow

__all__ = ["build_module_tree"]

_LISTS = (nn.ModuleList, nn.ModuleDict, nn.ParameterDict, nn.ParameterList)


@dataclass(slots=True)
class _Node:
    """One module: what it counts for itself and below, and its children in definition order."""

    type: str
    is_list: bool
    count: int = 0
    trainable: int = 0
    bytes: int = 0
    shared_with: str | None = None
    children: dict[str, _Node] = field(default_factory=dict)
    signature: Hashable = None


def build_module_tree(model: nn.Module, depth: int) -> tuple[TreeRow, ...]:
    """Return the rows of the tree down to `depth` (0 is the model alone), identical layers folded."""
    wrappers = find_wrappers(model)
    root = _read_module(model, "", {}, "".join(f"{name}." for name in wrappers))
    return tuple(_list_rows(_remove_wrappers(root, wrappers), "", 0, depth, 1))


def _read_module(module: nn.Module, path: str, first_names: dict[nn.Parameter, str], wrapped: str) -> _Node:
    """Read a module and everything below it; a parameter counts where it is met first.

    `wrapped` is what PEFT's wrappers put in front of the base model's own names.
    """
    node = _Node(type=_describe_type(module), is_list=isinstance(module, _LISTS))
    own: list[Hashable] = []
    for name, parameter in parameters_of(module).items():
        if parameter is None:
            continue
        counted = parameter not in first_names
        owner = first_names.setdefault(parameter, f"{path}.{name}" if path else name)
        if counted:
            node.count += count_weights(parameter)
            node.trainable += count_weights(parameter) * parameter.requires_grad
            node.bytes += count_bytes(parameter)
        else:
            node.shared_with = owner.removeprefix(wrapped)
        own.append((name, tuple(parameter.shape), parameter.dtype, parameter.requires_grad, counted or owner))
    for name, child in children_of(module).items():
        if child is None:
            continue
        below = _read_module(child, f"{path}.{name}" if path else name, first_names, wrapped)
        node.children[name] = below
        node.count += below.count
        node.trainable += below.trainable
        node.bytes += below.bytes
    buffers = tuple((name, tuple(buffer.shape)) for name, buffer in buffers_of(module).items() if buffer is not None)
    node.signature = (
        node.type,
        tuple(own),
        buffers,
        tuple((name, child.signature) for name, child in node.children.items()),
    )
    return node


def _list_rows(node: _Node, path: str, depth: int, deepest: int, repeat: int) -> Iterator[TreeRow]:
    """Yield a node's row and, down to `deepest`, those of its folded children; lists give way to their items."""
    yield TreeRow(
        name=path,
        type=node.type,
        depth=depth,
        repeat=repeat,
        count=node.count * repeat,
        trainable=node.trainable * repeat,
        bytes=node.bytes * repeat,
        shared_with=node.shared_with if node.count == 0 else None,
    )
    if depth < deepest:
        for name, child, times in _fold_children(node):
            yield from _list_rows(child, f"{path}.{name}" if path else name, depth + 1, deepest, repeat * times)


def _fold_children(node: _Node) -> Iterator[tuple[str, _Node, int]]:
    """Yield (name, child, how many) for each child, items of lists folded and named through their list."""
    for name, child in node.children.items():
        if not child.is_list or child.count > sum(item.count for item in child.children.values()):
            yield name, child, 1
            continue
        groups: dict[Hashable, list[str]] = {}
        for key, item in child.children.items():
            groups.setdefault(item.signature, []).append(key)
        for keys in groups.values():
            indices = (
                fold_indices([int(key) for key in keys]) if all(key.isdecimal() for key in keys) else ",".join(keys)
            )
            yield f"{name}.{indices}", child.children[keys[0]], len(keys)


def _describe_type(module: nn.Module) -> str:
    """Return the class name, with the method in front for PEFT's layers, whose names are those of torch's."""
    parts = type(module).__module__.split(".")
    method = f"{parts[2]}." if parts[:2] == ["peft", "tuners"] and len(parts) > 2 else ""
    return f"{method}{type(module).__name__}"


def _remove_wrappers(node: _Node, wrappers: tuple[str, ...]) -> _Node:
    """Return the base model's node with the totals of the wrappers and whatever else they hold as further children."""
    for wrapper in wrappers:
        inner = node.children.pop(wrapper)
        inner.children.update(node.children)
        inner.count, inner.trainable, inner.bytes = node.count, node.trainable, node.bytes
        node = inner
    return node
