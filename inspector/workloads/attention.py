"""The attention that a run has: what was asked for or, where nothing was, what transformers takes for the class.

transformers takes sdpa where the model's class has it and eager elsewhere (Bloom, gpt-oss); sdpa asked of a class
without it is refused (`_check_and_adjust_attn_implementation`, modeling_utils.py of 5.23).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from inspector.model.attention import find_attention
from inspector.records.recipe import Attention, Recipe
from inspector.trace.rules.flash_attn import use_attention

__all__ = ["settle_attention", "settle_implementation"]


def settle_attention(model: Any, recipe: Recipe) -> Recipe:
    """Return the recipe with the attention that `model` has, where none was asked for."""
    if recipe.attention is not None:
        return recipe
    found = find_attention(model)
    known = [attention.value for attention in Attention]
    return dataclasses.replace(recipe, attention=found if found in known else Attention.EAGER)


def settle_implementation(base: Any, recipe: Recipe) -> None:
    """Give a model the attention of a settled recipe; raise UsageError where its class has no such one."""
    if recipe.attention is not None and find_attention(base) != recipe.attention:
        use_attention(base, recipe.attention)
