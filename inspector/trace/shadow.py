"""Values for the integer and boolean tensors of a step whose other tensors have none.

Control flow reads small tensors: a mask asks `.all()`, packed sequences compare position ids, a router calls `nonzero`.
Meta tensors refuse. Each integer or boolean tensor therefore gets a shadow, a real tensor on the CPU, as long as its
value follows from other shadows alone: the same op runs on the shadows. Views of shadows are views, in-place ops change
them in place. What depends on weights or activations has no shadow. Small floating-point tensors that follow from
constants have one too: PEFT's prompt methods put a mask of float ones before the batch's.

Not covered: tensors of more than `LARGEST_SHADOW` elements (floating-point: `LARGEST_FLOAT_SHADOW`) and large masks of
queries and keys, whose values nothing in a step reads.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from inspector.compat.torch import storage_address
from inspector.runtime.patches import call_at_end, restore_changes

__all__ = ["LARGEST_FLOAT_SHADOW", "LARGEST_SHADOW", "NO_VALUE", "Shadows", "use_one_thread"]

# A mask of 8,192 x 8,192; nothing in a step reads a larger tensor.
LARGEST_SHADOW = 2**26
# A padding mask of 16 sequences of 4,096; larger floating-point tensors are data.
LARGEST_FLOAT_SHADOW = 2**16

# A square of queries and keys that is made of nothing becomes a mask, which nothing reads; the mask has a dimension for
# the batch and one for the heads besides. What else is made of nothing and larger is data.
_LARGEST_SQUARE = 2**16
_LARGEST_MADE = 2**20
_MASK_DIMENSIONS = 4
# Of the pixels of images that are cut into patches, which are small (Idefics 3: 13 images of 364 x 364).
_LARGEST_CUT = 2**24
# Ops whose results are one number everywhere, whatever their argument holds; None where it is their second argument.
_FILLING = {
    torch.ops.aten.ones_like.default: 1,
    torch.ops.aten.zeros_like.default: 0,
    torch.ops.aten.full_like.default: None,
}
# Ops that make such a tensor of a size; small masks of floating-point ones are made so.
_MAKING = {torch.ops.aten.new_ones.default: 1}
# Bytes hold what quantization packs: weights, and the state of 8-bit optimizers, whose zeros are as many as weights.
_PACKED = (torch.uint8, torch.int8)


@contextlib.contextmanager
def use_one_thread() -> Iterator[None]:
    """Let torch's CPU ops run in one thread inside the block: shadows are too small to share out.

    On a machine whose cores were busy the threads of one such op waited 4.5 ms for each other, thousands of times.
    """
    with restore_changes():
        call_at_end(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        yield


class _NoValue:
    """The value of what has none; None is a value that ops return."""


NO_VALUE = _NoValue()


class Shadows:
    """The shadow of each tensor that has one, for as long as the tensor lives."""

    def __init__(self) -> None:
        self._values: WeakIdKeyDictionary = WeakIdKeyDictionary()
        # Of all that ever had a value; a tensor may have got the place of another.
        self._ids: set[int] = set()

    def set(self, tensor: Tensor, value: Tensor) -> None:
        """Give `tensor` a value."""
        self._values[tensor] = value
        self._ids.add(id(tensor))

    def forget(self, tensor: Tensor) -> None:
        """Forget the value of a tensor into which numbers without one were written, and of all views of its memory."""
        if self._lacks_value(tensor) or not tensor.is_meta:
            return
        memory = storage_address(self._values[tensor].untyped_storage())
        for other, value in list(self._values.items()):
            if storage_address(value.untyped_storage()) == memory:
                del self._values[other]

    def find(self, tensor: Tensor) -> Tensor | None:
        """Return the value of a tensor, None where it has none."""
        value: Tensor | None = self._values.get(tensor)
        return value

    def derive(self, tensor: Tensor, view: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a view of a tensor, with the value that follows where the tensor has one."""
        result = view(tensor)
        if not self._lacks_value(tensor):
            self.set(result, view(self._values[tensor]))
        return result

    def count_places(self, tensor: Tensor) -> int | None:
        """Return how many elements of a tensor are not zero, None where it has no value."""
        if self._lacks_value(tensor):
            return None
        value: Tensor = self._values[tensor] if tensor.is_meta else tensor
        distinct = value
        for dimension in _list_repeated(value):
            distinct = distinct.narrow(dimension, 0, 1)
        return int(distinct.count_nonzero()) * (value.numel() // max(distinct.numel(), 1))

    def count_repeated(self, tensor: Tensor) -> int | None:
        """Return the same of a view that repeats its elements, as a mask of tokens over features; else None."""
        if self._lacks_value(tensor) or not tensor.is_meta or not _list_repeated(self._values[tensor]):
            return None
        return self.count_places(tensor)

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run an op on the shadows of its arguments; NO_VALUE when one of them has none or the result is too large."""
        if func in _FILLING:
            return _fill_like(func, args, kwargs)
        if func in _MAKING:
            return _make_filled(_MAKING[func], args, kwargs)
        # Most ops take a tensor without a shadow, or make a large one: that needs no look at the rest.
        for arg in args:
            first = arg[0] if isinstance(arg, (list, tuple)) and arg else arg
            if isinstance(first, Tensor) and self._lacks_value(first):
                return NO_VALUE
        if args and _is_large_size(args[0]):
            return NO_VALUE
        leaves = list(_list_leaves((*args, *kwargs.values())))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_meta]
        if not tensors and not _makes_small_tensor(args, leaves, kwargs):
            return NO_VALUE
        largest = [_largest_shape(tensor) for tensor in tensors]
        if any(
            tensor not in self._values or (tensor.numel() > most and _count_distinct(self._values[tensor]) > most)
            for tensor, most in zip(tensors, largest, strict=True)
        ):
            return NO_VALUE
        # The rows and columns of Adafactor's state are small, and what they broadcast to is a matrix.
        if len(tensors) > 1 and _broadcast_count(tensors) > min(
            *largest, *(_largest(tensor.dtype) for tensor in tensors)
        ):
            return NO_VALUE
        shadow_kwargs = {name: self._shadow(value) for name, value in kwargs.items()}
        try:
            return func(*map(self._shadow, args), **shadow_kwargs)
        except NotImplementedError:  # CUDA alone has it for that dtype, as histc for integers
            return NO_VALUE

    def _lacks_value(self, tensor: Tensor) -> bool:
        """Tell whether a tensor has neither data nor a shadow."""
        return tensor.is_meta and (id(tensor) not in self._ids or tensor not in self._values)

    def keep(self, result: Any, value: Any) -> None:
        """Remember the values of what an op returned, as far as they are small enough."""
        if isinstance(result, Tensor):
            if not isinstance(value, Tensor):
                return
            if _count_distinct(value) <= min(_largest(value.dtype), _largest_shape(value)):
                self.set(result, value)
            elif value.numel() <= _LARGEST_MADE and value.is_floating_point() and _is_uniform(value):
                self.set(result, value.flatten()[0].clone().expand(value.shape))
        elif isinstance(result, (tuple, list)):
            for item, item_value in zip(result, value, strict=True):
                self.keep(item, item_value)

    def _shadow(self, arg: Any) -> Any:
        """Return what stands for an argument: the shadow of a meta tensor, the CPU for the meta device."""
        if isinstance(arg, Tensor):
            return self._values[arg] if arg.is_meta else arg
        if isinstance(arg, torch.device):
            return torch.device("cpu") if arg.type == "meta" else arg
        return list(map(self._shadow, arg)) if isinstance(arg, (list, tuple)) else arg


def _list_leaves(args: Iterable[Any]) -> Iterator[Any]:
    """Yield arguments of an op, of lists what they hold."""
    for arg in args:
        if isinstance(arg, (list, tuple)):
            yield from _list_leaves(arg)
        else:
            yield arg


def _fill_like(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return integers that are one number everywhere and take the shape of a tensor alone; NO_VALUE for others."""
    like, dtype, device = args[0], kwargs.get("dtype"), kwargs.get("device")
    dtype = like.dtype if dtype is None else dtype
    is_on_meta = like.is_meta if device is None else torch.device(device).type == "meta"
    if not is_on_meta or dtype.is_floating_point or dtype.is_complex or dtype in _PACKED:
        return NO_VALUE
    number = _FILLING[func]
    value = torch.tensor(args[1] if number is None else number, dtype=dtype, device="cpu")
    count = like.numel()
    if count > LARGEST_SHADOW:
        return NO_VALUE
    # A large one is a view of one number, which nothing can write into.
    return value.expand(like.shape) if count > _LARGEST_MADE else value.expand(like.shape).clone()


def _make_filled(number: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return a tensor of a size that is one number everywhere; NO_VALUE for a large one, or one off meta."""
    dtype, device = kwargs.get("dtype") or args[0].dtype, kwargs.get("device") or args[0].device
    if torch.device(device).type != "meta" or math.prod(args[1]) > min(_largest(dtype), _LARGEST_MADE):
        return NO_VALUE
    return torch.full(tuple(args[1]), number, dtype=dtype, device="cpu")


def _list_repeated(tensor: Tensor) -> list[int]:
    """Return the dimensions along which a view repeats its elements."""
    return [place for place, stride in enumerate(tensor.stride()) if stride == 0 and tensor.shape[place] > 1]


def _is_uniform(tensor: Tensor) -> bool:
    """Tell whether a tensor holds one number everywhere, as the mask of an image without padding does."""
    return bool((tensor == tensor.flatten()[0]).all())


def _count_distinct(tensor: Tensor) -> int:
    """Return how many elements a tensor has, those that a view repeats once."""
    return tensor.numel() // math.prod(tensor.shape[place] for place in _list_repeated(tensor))


def _broadcast_count(tensors: list[Tensor]) -> int:
    """Return how many elements tensors have when they are broadcast together, 0 where they cannot be."""
    try:
        return math.prod(torch.broadcast_shapes(*(tensor.shape for tensor in tensors)))
    except RuntimeError:
        return 0


def _is_large_size(arg: Any) -> bool:
    """Tell whether an argument is the size of a tensor to make, and a large one."""
    if not isinstance(arg, (list, tuple)) or not all(type(item) is int for item in arg):
        return False
    is_square = len(arg) > 1 and arg[-1] == arg[-2]
    return math.prod(arg) > (_LARGEST_SQUARE if is_square else _LARGEST_MADE)


def _makes_small_tensor(args: tuple[Any, ...], leaves: list[Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether an op without meta arguments makes a small tensor on meta: a factory, or a copy from the CPU."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    if device is None or torch.device(device).type != "meta":
        return False
    sources = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if sources:
        return all(source.numel() <= _largest(source.dtype) for source in sources)
    if args and isinstance(args[0], (list, tuple)):  # the size of ones, zeros, full, empty
        return math.prod(args[0]) <= _largest(dtype or torch.get_default_dtype())
    # The ends and the step of arange.
    return all(
        abs(leaf) <= (LARGEST_SHADOW if isinstance(leaf, int) else LARGEST_FLOAT_SHADOW)
        for leaf in leaves
        if isinstance(leaf, (int, float))
    )


def _largest(dtype: torch.dtype) -> int:
    """Return how many elements of a dtype a shadow may have."""
    is_data = dtype.is_floating_point or dtype.is_complex or dtype in _PACKED
    return LARGEST_FLOAT_SHADOW if is_data else LARGEST_SHADOW


def _largest_shape(tensor: Tensor) -> int:
    """Return how many elements a shadow of as many dimensions may have: with four it is a mask, or cut into patches."""
    if tensor.dim() < _MASK_DIMENSIONS:
        return LARGEST_SHADOW
    return _LARGEST_CUT if tensor.shape[-1] * tensor.shape[-2] < _LARGEST_SQUARE else _LARGEST_MADE
