"""What a run of a denoiser is, and what of a script's it does not have."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from inspector.errors import UsageError
from inspector.model.diffusion.denoiser import Denoiser
from inspector.records.memory import Unaccounted
from inspector.records.recipe import Attention, Loop, Recipe

__all__ = ["find_encoders", "settle_denoising"]


def settle_denoising(base: Any, recipe: Recipe) -> Recipe:
    """Return the recipe of a denoiser in the loop that its scripts have, which is no Trainer's; of others as it is.

    Raises UsageError for another attention than sdpa, which is what diffusers' processors run.
    """
    if not isinstance(base, Denoiser):
        return recipe
    if recipe.attention not in (None, Attention.SDPA):
        raise UsageError(f"`attention`: {type(base).__name__} of diffusers runs sdpa; drop it.")
    return dataclasses.replace(recipe, loop=Loop.PLAIN)


def find_encoders(base: Any) -> Iterator[Unaccounted]:
    """Yield the encoders of a pipeline, which a script may keep on the card and run in each step."""
    if isinstance(base, Denoiser) and base.config.encoders:
        yield Unaccounted(
            what=f"the pipeline's {' and '.join(base.config.encoders)}",
            why="latents and captions are taken as computed before; a script that encodes them in each step keeps the "
            "weights on the card, and what encoding takes",
        )
