"""What is assumed of results that no value says: which rule knows an op, in the order in which they are asked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inspector.trace.rules.checks import Checks
from inspector.trace.rules.masks import choose_all
from inspector.trace.rules.moe_routing import balance_choice
from inspector.trace.rules.token_choice import choose_code, choose_token

__all__ = ["Assumptions", "BytePatches", "find_byte_patches"]

aten = torch.ops.aten

# The threshold of entropies, and the bytes of a patch.
BytePatches = tuple[float, int]


class Assumptions:
    """The assumptions of one trace; see `Tracer` for its arguments."""

    def __init__(
        self, *, balances_experts: bool, token: int | None, holds_all: bool, patches: BytePatches | None
    ) -> None:
        self._balances_experts = balances_experts
        self._token = token
        self._patches = patches
        self._holds_all = holds_all
        self._checks = Checks()

    def choose(self, func: Any, args: tuple[Any, ...], result: Any) -> tuple[Tensor, Tensor] | None:
        """Return a result with what it is taken to be, None where nothing is assumed of it."""
        if self._balances_experts and (choice := balance_choice(func, args, result)):
            return choice
        if self._holds_all and (choice := choose_all(func, result)):
            return choice
        if self._patches and (choice := _begin_patches(self._patches, func, args, result)):
            return choice
        if choice := choose_code(func, result):
            return choice
        if choice := self._checks.answer(func, args, result):
            return choice
        return None if self._token is None else choose_token(func, result, self._token)

    def read(self, func: Any, args: tuple[Any, ...]) -> bool | None:
        """Return the number that an op reads where one is assumed, else None."""
        return self._checks.read(func, args)


def find_byte_patches(model: nn.Module) -> BytePatches | None:
    """Return how a model of bytes puts them together by the entropy of what follows, None where it does not.

    Patches are taken to be as long as the configuration says that they are.
    """
    config = getattr(model, "config", None)
    threshold, size = (getattr(config, name, None) for name in ("patching_threshold", "patch_size"))
    by_entropy = getattr(config, "patching_mode", None) == "entropy"
    return (threshold, size) if by_entropy and isinstance(threshold, float) and isinstance(size, int) else None


def _begin_patches(patches: BytePatches, func: Any, args: tuple[Any, ...], result: Any) -> tuple[Tensor, Tensor] | None:
    """Return which entropies are above the threshold, with its value: one in each patch; None for any other op."""
    threshold, size = patches
    if func is not aten.gt.Scalar or args[1] != threshold:
        return None
    begins = torch.arange(result.shape[-1]).remainder(size) == size - 1
    return result, begins.expand(result.shape).clone()
