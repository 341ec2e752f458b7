"""Which token a generation goes on with: its logits have no values, and control flow reads what was chosen.

Every choice is the same token, one that ends nothing. What a step allocates does not depend on which it is, only on
whether a sequence is over: nobody is taken to stop early.

`torch.tensor(number, device=...)` makes its tensor out of sight of any mode (torch/csrc/utils/tensor_new.cpp), and so
do `torch.as_tensor` of numbers and an index that is a list (python_variable_indexing.cpp, sequenceToVariable): the ids
of special tokens, which transformers makes so, and the sequences that whisper goes on with get their block and their
value here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from inspector.compat.torch import tree_map
from inspector.runtime.patches import replace_attribute, restore_changes
from inspector.trace.shadow import Shadows

__all__ = ["ListIndices", "choose_code", "choose_token", "read_tokens", "see_made_tensors"]

aten = torch.ops.aten
_CHOICES = (aten.argmax.default, aten.multinomial.default)
# A batch has fewer sequences; what is larger chooses something else.
_LARGEST_CHOICE = 2**16


def choose_token(func: Any, result: Any, token: int) -> tuple[Tensor, Tensor] | None:
    """Return the result of an op that chooses tokens, with its value; None for any other op."""
    if func not in _CHOICES or result.numel() > _LARGEST_CHOICE:
        return None
    return result, torch.full(result.shape, token, dtype=torch.int64)


def choose_code(func: Any, result: Any) -> tuple[Tensor, Tensor] | None:
    """Return which code of a codebook is nearest, with its value, the first; None for any other op."""
    if func is not aten.argmin.default or result.numel() > _LARGEST_CHOICE:
        return None
    return result, torch.zeros(result.shape, dtype=torch.int64)


@contextlib.contextmanager
def see_made_tensors(see: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """Show tensors that are made of numbers on meta to `see`, each with its value, inside the block."""

    def watch(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def make(data: Any, *args: Any, **kwargs: Any) -> Tensor:
            numbers = data if isinstance(data, Tensor) else tree_map(_read_number, data)
            made = original(numbers, *args, **kwargs)
            if made.is_meta and not isinstance(data, Tensor):
                see(made, original(numbers, *args, **{**kwargs, "device": "cpu"}))
            return made

        return make

    with restore_changes():
        for name in ("tensor", "as_tensor"):
            replace_attribute(torch, name, watch(getattr(torch, name)))
        yield


class ListIndices(TorchFunctionMode):
    """Make the tensor of an index such as x[[1]] in sight of a trace, with its value.

    Python makes it past every dispatch mode (python_variable_indexing.cpp).
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run a function, with a tensor in the place of a list that indexes one on meta."""
        if func is Tensor.__getitem__ and args[0].is_meta and isinstance(args[1], list):
            indices = args[1]
            if indices and all(type(item) is int for item in indices):
                args = (args[0], torch.tensor(indices, device=args[0].device))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def read_tokens(shadows: Shadows) -> Iterator[None]:
    """Let `tolist` of a tensor on meta return its value where it has one, inside the block; it takes no memory."""
    original = Tensor.tolist

    def read(tensor: Tensor) -> Any:
        value = shadows.find(tensor) if tensor.is_meta else None
        return original(tensor if value is None else value)

    with restore_changes():
        replace_attribute(Tensor, "tolist", read)
        yield


def _read_number(leaf: Any) -> Any:
    """Return the number that a tensor on meta holds, which `torch.tensor` would read out of sight."""
    return leaf.item() if isinstance(leaf, Tensor) and leaf.is_meta and leaf.dim() == 0 else leaf
