"""Long generations: which are extrapolated from short ones, and by what request each of these is traced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from inspector.extrapolate import TapeTemplate
from inspector.extrapolate.size_laws import Keys
from inspector.extrapolate.steps import PIECE, TooManyEventsError, extrapolate_steps
from inspector.records.recipe import Attention, CacheKind
from inspector.resolve import ResolvedRun
from inspector.workloads.base import NotTraceableError

__all__ = ["extrapolate_generation", "is_long", "list_group_sizes"]

# Up to here all steps are traced: two short generations are no fewer.
_LONGEST_TRACED = 2 * PIECE
# Where the steps do not follow from a few, that many are traced all the same.
_MOST_TRACED = 1024


def is_long(run: ResolvedRun) -> bool:
    """Tell whether a run is a generation that is not to be traced step by step."""
    return run.workload.generates and run.recipe.new_tokens > _LONGEST_TRACED


def extrapolate_generation(
    run: ResolvedRun, group_sizes: tuple[int, ...], trace: Callable[[ResolvedRun], TapeTemplate]
) -> TapeTemplate | None:
    """Return the run of a long generation, None where it has to be traced step by step.

    `trace` returns that of a short one. Raises NotTraceableError where it is too long to be traced.
    """
    recipe = run.request.recipe
    # flash-attn's parts are no ops of their own on the tape, and a static cache is as long as the whole generation.
    follows = run.recipe.attention != Attention.FLASH_ATTENTION_2 and run.recipe.cache != CacheKind.STATIC

    def trace_piece(shift: int) -> TapeTemplate:
        piece = dataclasses.replace(recipe, prompt_len=recipe.prompt_len + shift, new_tokens=PIECE)
        return trace(run.with_request(dataclasses.replace(run.request, recipe=piece)))

    keys = Keys(platform=run.platform, prompt_len=recipe.prompt_len, group_sizes=group_sizes)
    try:
        found = extrapolate_steps(trace_piece, recipe.new_tokens, keys) if follows else None
    except TooManyEventsError as error:
        raise NotTraceableError(str(error)) from error
    if found is not None:
        return found[0]
    if recipe.new_tokens > _MOST_TRACED:
        raise NotTraceableError(
            f"the steps of this generation do not follow from a few, and more than {_MOST_TRACED:,} are not traced: "
            f"use at most {_MOST_TRACED:,} `new_tokens`"
        )
    return None


def list_group_sizes(config: Any) -> tuple[int, ...]:
    """Return how many query heads may share a head of keys in a model: by any of the counts that its parts name."""
    parts = [config, *(value for value in vars(config).values() if hasattr(value, "to_dict"))]
    names = [(name, value) for part in parts for name, value in vars(part).items() if type(value) is int and value > 0]
    heads = {value for name, value in names if "head" in name and "dim" not in name}
    own = {value for name, value in names if "kv" in name or "key_value" in name}
    return tuple(sorted({1, *(count // shared for count in heads for shared in {1, *own} if not count % shared)}))
