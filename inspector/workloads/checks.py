"""What a recipe may ask for: refusals before any work is done, and the allocator's settings that it runs under.

Standard library only. What the step itself refuses (a dtype that a kernel does not take, a model without an
implementation) shows where it runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from inspector.errors import UsageError
from inspector.memory.allocator.settings import AllocatorSettings
from inspector.records.recipe import Recipe

__all__ = ["ALLOCATOR_VARIABLE", "allocator_settings", "checked"]

# In the order in which torch 2.13 looks at them for CUDA (c10/cuda/CUDAAllocatorConfig.h, `instance`).
ALLOCATOR_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"
_VARIABLES = (ALLOCATOR_VARIABLE, "PYTORCH_ALLOC_CONF")
_COUNTS = ("batch_size", "seq_len", "gradient_accumulation")


def checked(recipe: Recipe) -> Recipe:
    """Return the recipe with the KV cache settled; raise UsageError where no step could run as it says."""
    for name in _COUNTS:
        if (count := getattr(recipe, name)) is not None and count < 1:
            raise UsageError(f"{name} is {count}: a step needs at least one; give 1 or more.")
    if recipe.use_reentrant and not recipe.gradient_checkpointing:
        raise UsageError("--use-reentrant says how to checkpoint: add --gradient-checkpointing, or drop it.")
    # Trainer sets config.use_cache to TrainingArguments.use_cache, which is off; blocks that are computed again fill no
    # cache at all (transformers/utils/generic.py, merge_with_config_defaults).
    return dataclasses.replace(recipe, use_cache=bool(recipe.use_cache) and not recipe.gradient_checkpointing)


def allocator_settings(recipe: Recipe, environment: Mapping[str, str]) -> tuple[AllocatorSettings, Recipe]:
    """Return the settings of the caching allocator, and the recipe with their text where they are not torch's defaults.

    The recipe's own text goes before the environment's, as torch reads it.
    """
    source, text = "--alloc-conf", recipe.alloc_conf
    for variable in _VARIABLES:
        if text is None:
            source, text = variable, environment.get(variable)
    try:
        settings = AllocatorSettings.parse(text or "")
    except UsageError as error:
        raise UsageError(f"{source}: {error}; correct it.") from error
    text = text if settings != AllocatorSettings() else None
    return settings, dataclasses.replace(recipe, alloc_conf=text)
