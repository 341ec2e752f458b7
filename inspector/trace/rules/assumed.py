"""What is assumed of results that no value says: which rule knows an op, in the order in which they are asked."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from inspector.trace.rules.checks import Checks
from inspector.trace.rules.masks import choose_all
from inspector.trace.rules.moe_routing import balance_choice
from inspector.trace.rules.token_choice import choose_code, choose_token

__all__ = ["Assumptions"]


class Assumptions:
    """The assumptions of one trace; see `Tracer` for its arguments."""

    def __init__(self, *, balances_experts: bool, token: int | None, holds_all: bool) -> None:
        self._balances_experts = balances_experts
        self._token = token
        self._holds_all = holds_all
        self._checks = Checks()

    def choose(self, func: Any, args: tuple[Any, ...], result: Any) -> tuple[Tensor, Tensor] | None:
        """Return a result with what it is taken to be, None where nothing is assumed of it."""
        if self._balances_experts and (choice := balance_choice(func, args, result)):
            return choice
        if self._holds_all and (choice := choose_all(func, result)):
            return choice
        if choice := choose_code(func, result):
            return choice
        if choice := self._checks.answer(func, args, result):
            return choice
        return None if self._token is None else choose_token(func, result, self._token)

    def read(self, func: Any, args: tuple[Any, ...]) -> bool | None:
        """Return the number that an op reads where one is assumed, else None."""
        return self._checks.read(func, args)
