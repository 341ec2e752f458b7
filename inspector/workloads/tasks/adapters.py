"""What an adapter takes of a batch beside what its base does: the task of each row, or the tokens that invoke it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from inspector.workloads.inputs import Input, Inputs

__all__ = ["add_adapter_inputs", "finds_tokens"]

# Methods whose router or prompt is chosen by the task (tuners/poly, tuners/multitask_prompt_tuning).
_OF_TASKS = ("POLY", "MULTITASK_PROMPT_TUNING")


def add_adapter_inputs(model: Any, inputs: Inputs) -> Inputs:
    """Return the inputs of a model with what its adapter takes: one task for all rows, its tokens amid each row."""
    config, ids = getattr(model, "active_peft_config", None), inputs.get("input_ids")
    if config is None:
        return inputs
    if getattr(config.peft_type, "value", config.peft_type) in _OF_TASKS:
        rows = next(item.shape[0] for item in inputs.values() if isinstance(item, Input))
        return {**inputs, "task_ids": Input(shape=(rows,))}
    tokens = getattr(config, "alora_invocation_tokens", None)
    if tokens and isinstance(ids, Input):
        return {**inputs, "input_ids": Input(shape=ids.shape, make=functools.partial(_invoke, ids, tuple(tokens)))}
    return inputs


def finds_tokens(model: Any) -> bool:
    """Tell whether an adapter looks for tokens in the rows, which it makes a tensor of."""
    return bool(getattr(getattr(model, "active_peft_config", None), "alora_invocation_tokens", None))


def _invoke(ids: Input, tokens: tuple[int, ...]) -> Tensor:
    """Return rows with tokens in their middle."""
    rows = ids.list_values().clone()
    start = (rows.shape[1] - len(tokens)) // 2
    rows[:, max(start, 0) : start + len(tokens)] = torch.tensor(tokens)[: rows.shape[1]]
    return rows
