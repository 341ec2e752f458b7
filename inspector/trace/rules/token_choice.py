"""Which token a generation goes on with: its logits have no values, and control flow reads what was chosen.

Every choice is the same token, one that ends nothing. What a step allocates does not depend on which it is, only on
whether a sequence is over: nobody is taken to stop early.

`torch.tensor(number, device=...)` makes its tensor out of sight of any mode (torch/csrc/utils/tensor_new.cpp), so that
the ids of special tokens, which transformers makes so, get their block and their value here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from inspector.compat.torch import tree_map
from inspector.runtime.patches import replace_attribute, restore_changes

__all__ = ["choose_token", "see_made_tensors"]

aten = torch.ops.aten
_CHOICES = (aten.argmax.default, aten.multinomial.default)
# A batch has fewer sequences; what is larger chooses something else.
_LARGEST_CHOICE = 2**16


def choose_token(func: Any, result: Any, token: int) -> tuple[Tensor, Tensor] | None:
    """Return the result of an op that chooses tokens, with its value; None for any other op."""
    if func not in _CHOICES or result.numel() > _LARGEST_CHOICE:
        return None
    return result, torch.full(result.shape, token, dtype=torch.int64)


@contextlib.contextmanager
def see_made_tensors(see: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """Show tensors that `torch.tensor` makes of integers on meta to `see`, each with its value, inside the block."""
    original = torch.tensor

    def make(data: Any, *args: Any, **kwargs: Any) -> Tensor:
        numbers = tree_map(_read_number, data)
        made = original(numbers, *args, **kwargs)
        if made.is_meta:
            see(made, original(numbers, *args, **{**kwargs, "device": "cpu"}))
        return made

    with restore_changes():
        replace_attribute(torch, "tensor", make)
        yield


def _read_number(leaf: Any) -> Any:
    """Return the number that a tensor on meta holds, which `torch.tensor` would read out of sight."""
    return leaf.item() if isinstance(leaf, Tensor) and leaf.is_meta and leaf.dim() == 0 else leaf
