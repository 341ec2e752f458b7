"""What is assumed of results that no value says: which rule knows an op, in the order in which they are asked.

What was assumed of floating-point numbers goes on to what follows from it, by the memory that holds it, and where
control flow or a shape reads that the assumption was used: then the report says it (`records.assumptions`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from inspector.compat.torch import storage_address, tree_leaves
from inspector.records.assumptions import CHECKS, CHOICES, MATCHING, PATCHES, PLACES
from inspector.trace.rules.checks import Checks
from inspector.trace.rules.masks import choose_all
from inspector.trace.rules.moe_routing import balance_choice
from inspector.trace.rules.token_choice import choose_code, choose_token

__all__ = ["Assumptions", "BytePatches", "find_byte_patches"]

aten = torch.ops.aten
_NONE = frozenset[str]()
# The threshold of entropies, and the bytes of a patch.
BytePatches = tuple[float, int]
# What is larger is data.
_LARGEST_CHOICE = 2**20


class Assumptions:
    """The assumptions of one trace; see `Tracer` for its arguments.

    `used` has the codes of those that something was read by.
    """

    def __init__(
        self, *, balances_experts: bool, token: int | None, holds_all: bool, patches: BytePatches | None
    ) -> None:
        self.used: set[str] = set()
        self._balances_experts = balances_experts
        self._token = token
        self._patches = patches
        self._holds_all = holds_all
        self._is_plain = not (balances_experts or holds_all or patches) and token is None
        self._checks = Checks()
        self._followed: dict[int, frozenset[str]] = {}

    def choose(self, func: Any, args: tuple[Any, ...], result: Any) -> tuple[Tensor, Tensor] | None:
        """Return a result with what it is taken to be, None where nothing is assumed of it."""
        if self._is_plain and isinstance(result, Tensor) and result.is_floating_point():
            return None  # codes, checks and choices are integers
        if self._balances_experts and (choice := balance_choice(func, args, result)):
            return choice
        if self._holds_all and (choice := choose_all(func, result)):
            return choice
        if self._patches and (choice := _begin_patches(self._patches, func, args, result)):
            self._follow(result, frozenset((PATCHES,)))
            return choice
        if choice := choose_code(func, result):
            return choice
        if choice := self._checks.answer(func, args, result):
            self._follow(result, frozenset((CHECKS,)))
            return choice
        if self._token is not None:
            return choose_token(func, result, self._token)
        if func is aten.argmax.default and result.is_meta and result.numel() <= _LARGEST_CHOICE:
            self._follow(result, frozenset((CHOICES,)))
            return result, torch.zeros(result.shape, dtype=result.dtype)
        return None

    def read(self, func: Any, args: tuple[Any, ...]) -> bool | None:
        """Return the number that an op reads where one is assumed, else None."""
        number = self._checks.read(func, args)
        if number is None and func is aten.equal.default and any(item.is_floating_point() for item in args[:2]):
            number = False
        if number is not None:
            self.used.add(CHECKS)
        return number

    def find_places(self, mask: Tensor) -> Tensor | None:
        """Return where a mask without a value is taken to hold, None where nothing is assumed of it."""
        places = self._checks.find_places(mask)
        if places is not None:
            self._follow(mask, frozenset((PLACES,)))
        return places

    def note_matching(self) -> None:
        """Note that predictions were matched with objects in turn."""
        self.used.add(MATCHING)

    def note_use(self, args: Iterable[Any]) -> None:
        """Note that values of arguments were read."""
        if self._followed:
            self.used |= self._gather(args)

    def spread(self, args: Iterable[Any], result: Any) -> None:
        """Note that the values of a result follow from those of arguments."""
        if self._followed and (codes := self._gather(args)):
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor) and leaf.is_meta:
                    self._follow(leaf, codes)

    def forget(self, key: int) -> None:
        """Forget memory that was given back."""
        self._followed.pop(key, None)

    def _follow(self, tensor: Tensor, codes: frozenset[str]) -> None:
        """Note by what the values of a tensor were assumed."""
        key = storage_address(tensor.untyped_storage())
        self._followed[key] = self._followed.get(key, _NONE) | codes

    def _gather(self, args: Iterable[Any]) -> frozenset[str]:
        """Return by what the values of arguments were assumed."""
        leaves = (leaf for leaf in tree_leaves(tuple(args)) if isinstance(leaf, Tensor) and leaf.is_meta)
        return _NONE.union(*(self._followed.get(storage_address(leaf.untyped_storage()), _NONE) for leaf in leaves))


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
