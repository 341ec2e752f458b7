"""Keyword arguments that a function of the Python API does not have: where the setting belongs, in one line."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from inspector.checks import find_nearest_names
from inspector.errors import UsageError, quoted
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions

__all__ = ["explain_keyword", "takes_no_others"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_RECIPE = tuple(item.name for item in dataclasses.fields(Recipe))
_LORA = tuple(item.name for item in dataclasses.fields(LoraOptions))
_LONGEST_VALUE = 40
# Options of the command that have another name in Python.
_OF_THE_COMMAND = {
    "lora": "peft=LoraOptions(r=16)",
    "gpus": "gpu_count=8",
    "fsdp": 'sharding="fsdp"',
    "deepspeed": 'sharding="zero3"',
    "fsdp_version": 'sharding="fsdp1"',
    "engine": 'serving={"engine": "vllm"}',
    "generate": "recipe=Generation()",
}


def takes_no_others(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return a function that raises UsageError, and no TypeError, for a keyword argument that it does not have."""
    code = function.__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for name, value in kwargs.items():
            if name not in known:
                raise UsageError(explain_keyword(function.__name__, name, value, known))
        return function(*args, **kwargs)

    return checked


def explain_keyword(function: str, name: str, value: Any, known: Sequence[str]) -> str:
    """Return what is wrong with a keyword argument and what to write instead."""
    what = f"{function}() has no argument {quoted(name, 60)}"
    if name in _RECIPE:
        return f'{what}; it is part of the recipe: recipe={{"{name}": {_format_value(value)}}}.'
    if name in _LORA:
        return f"{what}; it is part of the adapter: peft=LoraOptions({name}={_format_value(value)})."
    if name in _OF_THE_COMMAND:
        return f"{what}; in Python it is {_OF_THE_COMMAND[name]}."
    meanings: Mapping[str, str] = {
        **{setting: f"peft=LoraOptions({setting}=...)" for setting in _LORA},
        **{setting: f'recipe={{"{setting}": {_format_value(value)}}}' for setting in _RECIPE},
        **{argument: argument for argument in known},
    }
    near = find_nearest_names(name, tuple(meanings))
    return f"{what}; did you mean {meanings[near[0]]}?" if near else f"{what}; use {', '.join(known)}."


def _format_value(value: Any) -> str:
    """Return a value as it is written, three dots for what is no short literal."""
    text = repr(value) if isinstance(value, (int, float, bool)) or value is None else "..."
    text = f'"{value}"' if isinstance(value, str) and '"' not in value else text
    return text if len(text) <= _LONGEST_VALUE and text.isprintable() else "..."
