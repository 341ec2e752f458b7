"""Over how many cards a model can be cut by its plan, and what to say where one stops a real step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from inspector.errors import NotTraceableError, UsageError, one_line
from inspector.records.steps.ranks import TensorParallel

__all__ = ["explain_parts", "refuse_parts_of_experts", "refuse_parts_of_heads"]

# What configurations call the numbers that are cut.
_HEADS = {"num_attention_heads": "attention heads", "num_key_value_heads": "heads of keys"}
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_WIDTHS = ("hidden_size", "intermediate_size", "moe_intermediate_size", "vocab_size")


def refuse_parts_of_heads(base: Any, count: int) -> None:
    """Raise UsageError where a card would have a part of an attention head: a real step stops at its view."""
    if not any(name.endswith("q_proj") and style == "colwise" for name, style in base.tp_plan.items()):
        return
    heads = _read_numbers(base, tuple(_HEADS))
    for field, number in heads.items():
        if number % count:
            raise UsageError(
                f"`tensor_parallel` {count:,} does not divide the {number:,} {_HEADS[field]} of {type(base).__name__}, "
                f"and a real step stops there, too: {_advise_divisor(math.gcd(*heads.values()))}."
            )


def refuse_parts_of_experts(base: Any, count: int) -> None:
    """Raise UsageError where transformers has no plan for a model's experts, or a card would have a part of one."""
    if not base.ep_plan:
        raise UsageError(
            f"transformers has no plan for experts of {type(base).__name__}, by which `expert_parallel` would spread "
            "them: drop it, or cut layers with `tensor_parallel`, or shard them with `sharding=fsdp`."
        )
    for number in _read_numbers(base, _EXPERTS).values():
        if number % count:
            raise UsageError(
                f"`expert_parallel` {count:,} does not divide the {number:,} experts of {type(base).__name__}, and a "
                f"real step stops there, too: {_advise_divisor(number)}."
            )


@contextlib.contextmanager
def explain_parts(base: Any, launch: TensorParallel) -> Iterator[None]:
    """Raise UsageError for what stops inside the block where the cards do not divide the numbers of a model."""
    try:
        yield
    except NotTraceableError as error:
        count = launch.tensor_parallel
        numbers = _read_numbers(base, (*_HEADS, *_EXPERTS, *_WIDTHS))
        uneven = [f"{field} {number:,}" for field, number in numbers.items() if number % count]
        if not uneven:
            raise
        cause = f"{type(error.__cause__).__name__}: {error.__cause__}" if error.__cause__ else error
        raise UsageError(
            f"`tensor_parallel` {count:,} does not divide {', '.join(uneven)} of {type(base).__name__}, and a real "
            f"step stops there, too ({one_line(str(cause))}): {_advise_divisor(math.gcd(*numbers.values()))}."
        ) from error


def _read_numbers(base: Any, fields: tuple[str, ...]) -> dict[str, int]:
    """Return those of a configuration's fields that are numbers."""
    config = base.config.get_text_config()
    found = {field: getattr(config, field, None) for field in fields}
    return {field: number for field, number in found.items() if isinstance(number, int) and number > 0}


def _advise_divisor(number: int) -> str:
    """Return which numbers above 1 divide another, as what to give."""
    found = [f"{item:,}" for item in range(2, min(number, 1024) + 1) if number % item == 0]
    return f"give {found[0]}" if len(found) == 1 else f"give one of {', '.join(found)}" if found else "drop it"
