"""The head of a causal language model as losses read it: its weight and bias, without calling it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from inspector.errors import UsageError

__all__ = ["find_head", "log_ratio", "read_on_host", "run_as_head"]

_Result = TypeVar("_Result")


def find_head(base: Any, loss: str = "fused") -> Any:
    """Return the module that makes logits; raise UsageError for one that such a loss does not work on."""
    head = base.get_output_embeddings()
    if isinstance(head, BaseTunerLayer):
        raise UsageError(
            f"`loss={loss}` reads the weight of the head and not what an adapter adds to it, and TRL refuses it: leave "
            "the head out of `target_modules`, or use `loss=stock`."
        )
    return head


def run_as_head(head: Any, function: Callable[..., _Result], *args: Any) -> _Result:
    """Return what a function returns, run as the head: what it makes is the head's, in its module and its category."""
    head.forward = lambda: function(*args)
    try:
        result: _Result = head()
    finally:
        del head.forward
    return result


def log_ratio(part: Tensor, whole: Tensor) -> None:
    """Compute a mean that is logged where there is anything: what is read on the host takes nothing on the device."""
    if whole > 0:
        read_on_host(part / whole)


def read_on_host(_tensor: Tensor) -> None:
    """Stand for `tensor.item()` of what is logged alone."""
