"""The quantities that a search varies: how a request gets another value of each."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from inspector.records.fit import QUANTITIES, Search
from inspector.records.request import LoraOptions, Request

__all__ = ["set_found", "set_value"]


def _set_batch_size(request: Request, value: int) -> Request:
    return dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, batch_size=value))


def _set_seq_len(request: Request, value: int) -> Request:
    return dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, seq_len=value))


def _set_rank(request: Request, value: int) -> Request:
    """Return the request with an adapter of another rank, whatever form it was given in."""
    peft: Any = request.peft
    if isinstance(peft, LoraOptions):
        peft = dataclasses.replace(peft, r=value)
    elif isinstance(peft, Mapping):
        peft = {**peft, "r": value}
    else:
        peft = copy.deepcopy(peft)
        peft.r = value
    return dataclasses.replace(request, peft=peft)


def _set_prompt_len(request: Request, value: int) -> Request:
    return dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, prompt_len=value))


def _set_new_tokens(request: Request, value: int) -> Request:
    return dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, new_tokens=value))


_SETTERS: dict[str, Callable[[Request, int], Request]] = dict(
    zip(QUANTITIES, (_set_batch_size, _set_seq_len, _set_rank, _set_prompt_len, _set_new_tokens), strict=False)
)


def set_value(request: Request, quantity: str, value: int) -> Request:
    """Return the request with another value of a quantity."""
    return _SETTERS[quantity](request, value)


def set_found(request: Request, search: Search) -> Request:
    """Return the request with the value that a search found, the smallest one where nothing fits."""
    return set_value(request, search.quantity, search.value or search.tried[0].value)
