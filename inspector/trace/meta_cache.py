"""What ops return on meta, worked out once for each combination of shapes.

A layer runs the same ops on the same shapes as the layer before it, and torch's own meta kernels are slow: those of
elementwise ops are Python and take 60 to 200 µs, two thirds of a trace before there was this. What an op returns
on meta follows from the shapes, strides and dtypes of its arguments and from its other arguments, so the second call
makes an empty tensor of what the first one returned. What integers become in a division is torch's default dtype, which
therefore counts, too. In-place ops on lists change values alone, and meta has none: they do nothing.

The results belong to whoever made the `Results`: one tracer, or several that are handed the same.

Does not cover: ops that return or change one of their arguments or a view of it (`_unsafe_view` does, though its schema
does not say so), tensors on other devices (a number that was made a tensor promotes otherwise than one), and results
that are more than their shape: views, subclasses. Those run each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inspector.compat.torch import OpOverload, schema_of, storage_address, tree_leaves

__all__ = ["MOST_RESULTS", "Results", "only_changes_lists", "returns_new_tensors"]

# Shape, strides, dtype.
_Layout = tuple[Sequence[int], Sequence[int], torch.dtype]
# A trace of a model in one size has a few hundred; the search of a plan goes through some hundred sizes.
MOST_RESULTS = 16_384
_PLAIN_TYPES = (int, float, bool, str, type(None), torch.dtype, torch.layout, torch.device, torch.memory_format)


@dataclass(frozen=True, slots=True)
class _Outputs:
    """How to make what an op returned; `layouts` holds None where it returned None."""

    layouts: tuple[_Layout | None, ...]
    container: type | None

    def make(self) -> Any:
        """Make it anew."""
        items = [
            None if layout is None else torch.empty_strided(layout[0], layout[1], dtype=layout[2], device="meta")
            for layout in self.layouts
        ]
        return items[0] if self.container is None else self.container(items)


class Results:
    """The results of ops by their arguments, `most` of them: then the oldest is dropped for a new one."""

    def __init__(self, most: int = MOST_RESULTS) -> None:
        self._most = most
        self._known: dict[tuple[Any, ...], _Outputs | None] = {}

    def __len__(self) -> int:
        """Return how many results are known."""
        return len(self._known)

    def run(self, func: Any, kernel: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what `kernel` returns for an op that makes all that it returns."""
        key = _key((func, args, *kwargs.items()))
        if key is None:
            return kernel(*args, **kwargs)
        key = (torch.get_default_dtype(), *key)
        outputs = self._known.get(key)
        if outputs is not None:
            return outputs.make()
        result = kernel(*args, **kwargs)
        if key not in self._known:
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[key] = _outputs(result, tree_leaves((args, kwargs)))
        return result


def returns_new_tensors(func: Any) -> bool:
    """Tell whether an op returns tensors of its own and changes none."""
    schema = schema_of(func)
    return bool(schema.returns) and all(item.alias_info is None for item in (*schema.arguments, *schema.returns))


def only_changes_lists(func: Any) -> bool:
    """Tell whether an op is the in-place form of a foreach op."""
    name = schema_of(func).name
    return name.startswith("aten::_foreach_") and name.endswith("_") and not schema_of(func).returns


def _key(items: Any) -> tuple[Any, ...] | None:
    """Return what the results of an op with these arguments follow from, None where it is not known to be all."""
    parts: list[Any] = []
    for item in items:
        if isinstance(item, Tensor):
            if not item.is_meta:
                return None
            parts.append((item.shape, item.stride(), item.dtype))
        elif isinstance(item, (list, tuple)):
            nested = _key(item)
            if nested is None:
                return None
            parts.append(nested)
        elif isinstance(item, _PLAIN_TYPES):
            parts.append((type(item), item))  # 1, 1.0 and True are equal
        elif isinstance(item, OpOverload):
            parts.append(item)
        else:
            return None
    return tuple(parts)


def _outputs(result: Any, arguments: Sequence[Any]) -> _Outputs | None:
    """Return how to make a result anew, None where it is more than shapes say or shares memory with an argument."""
    container = None if isinstance(result, Tensor) else type(result)
    if container not in (None, tuple, list):
        return None
    items = [result] if container is None else list(result)
    storages = _storages(items)
    is_shared = len(set(storages)) < len(storages) or not set(storages).isdisjoint(_storages(arguments))
    if is_shared or not all(item is None or _is_its_layout(item) for item in items):
        return None
    layouts = tuple(None if item is None else (item.shape, item.stride(), item.dtype) for item in items)
    return _Outputs(layouts, container)


def _storages(items: Sequence[Any]) -> list[int]:
    """Return the storages of the tensors among items."""
    return [storage_address(item.untyped_storage()) for item in items if isinstance(item, Tensor)]


def _is_its_layout(item: Any) -> bool:
    """Tell whether a tensor is what `torch.empty_strided` makes of its layout."""
    if type(item) is not Tensor or not item.is_meta or item.storage_offset() or item.is_conj() or item.is_neg():
        return False
    last = sum((size - 1) * stride for size, stride in zip(item.shape, item.stride(), strict=True))
    return item.untyped_storage().nbytes() == (last + 1 if item.numel() else 0) * item.element_size()
