"""Options that leave one another without effect: in silence, a user would take both for heeded."""

from __future__ import annotations

from inspector.errors import UsageError
from inspector.records.recipe import Attention, Recipe, SdpaBackend

__all__ = ["refuse_contradictions"]


def refuse_contradictions(recipe: Recipe) -> None:
    """Raise UsageError where an option of a recipe has no effect because of another."""
    if recipe.use_cache and recipe.gradient_checkpointing:
        raise UsageError(
            "`use_cache` has no effect with `gradient_checkpointing`: blocks that are computed again fill no cache; "
            "drop one of them."
        )
    if recipe.attention not in (None, Attention.SDPA) and recipe.sdpa_backend is not SdpaBackend.AUTO:
        raise UsageError(
            f"`sdpa_backend` has no effect with `attention` {recipe.attention}: it chooses a kernel of sdpa; drop one "
            "of them."
        )
