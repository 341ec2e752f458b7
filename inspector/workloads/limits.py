"""How large a batch of a model can be, whatever runs: learned positions, and the images that a row has to hold."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

from inspector.errors import one_line
from inspector.records.recipe import Recipe
from inspector.workloads.base import NotTraceableError, base_model
from inspector.workloads.batch import find_longest_sequence
from inspector.workloads.inputs import BatchError, Inputs
from inspector.workloads.media.rows import Media

__all__ = ["bound_sizes", "find_positions", "lengthen_rows"]

# Tokens of text that a row of the default length has at least beside its images.
_TEXT = 64


def bound_sizes(model: Any, recipe: Recipe, make_inputs: Callable[[Any, Recipe], Inputs]) -> Recipe:
    """Return the recipe with sequences no longer than the model has learned positions for, and padding decided.

    `seq_len` is None where the model takes no tokens, and `padding` then False. Raises NotTraceableError where no batch
    is known for the model.
    """
    base = base_model(model)
    try:
        virtual = _count_virtual_tokens(model)
        recipe = _bound_recipe(recipe, find_longest_sequence(base), virtual, _find_fixed_length(base))
        make_inputs(model, recipe)
    except BatchError as error:
        raise NotTraceableError(str(error)) from error
    except Exception as error:  # configurations hold values of any kind
        cause = one_line(f"{type(error).__name__}: {error}")
        raise NotTraceableError(f"no batch for {type(base).__name__} ({cause})") from error
    return recipe


def lengthen_rows(model: Any, recipe: Recipe, find_media: Callable[[Any, Recipe], Media | None]) -> Recipe:
    """Return the recipe with rows of the default length lengthened by as much again until they hold their images.

    Raises NotTraceableError where images were asked for that are not known of the model.
    """
    try:
        media = find_media(model, recipe)
    except BatchError as error:
        raise NotTraceableError(str(error)) from error
    except Exception as error:  # configurations hold values of any kind
        cause = one_line(f"{type(error).__name__}: {error}")
        raise NotTraceableError(
            f"no images for {type(base_model(model)).__name__} ({cause}): use `images=0`"
        ) from error
    default = Recipe().seq_len
    if media is None or default is None or recipe.seq_len != default:
        return recipe
    return dataclasses.replace(recipe, seq_len=-(-(media.least_length + _TEXT) // default) * default)


def find_positions(base: Any) -> int | None:
    """Return how many positions a model's text part says that it is made for."""
    with contextlib.suppress(ValueError):  # MusicGen has two text parts, and neither stands for the whole
        positions = getattr(base.config.get_text_config(), "max_position_embeddings", None)
        return positions if isinstance(positions, int) else None
    return None


def _find_fixed_length(base: Any) -> int | None:
    """Return how many tokens a row has that trains, None where any number may be: axial positions have a shape."""
    shape = getattr(base.config, "axial_pos_shape", None) if getattr(base.config, "axial_pos_embds", False) else None
    return math.prod(shape) if shape else None


def _bound_recipe(recipe: Recipe, longest: int | None, virtual_tokens: int, fixed: int | None = None) -> Recipe:
    """Return the recipe with sequences of at most `longest` tokens, those of PEFT's prompt methods included.

    Documents that share a sequence may be as long each.
    """
    if longest == 0:
        return dataclasses.replace(recipe, seq_len=None, padding=False)
    if fixed is not None and recipe.seq_len == Recipe().seq_len:
        recipe = dataclasses.replace(recipe, seq_len=fixed)
    documents = recipe.packing or 1
    is_padded = recipe.batch_size > 1 and recipe.packing is None
    padding = recipe.padding if recipe.padding is not None else is_padded
    seq_len = recipe.seq_len
    if longest is not None and seq_len is not None:
        seq_len = min(seq_len, int(documents) * max(longest - virtual_tokens, 1))
    return dataclasses.replace(recipe, seq_len=seq_len, padding=padding)


def _count_virtual_tokens(model: Any) -> int:
    """Return how many positions PEFT's prompt methods put before each sequence."""
    return getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0
