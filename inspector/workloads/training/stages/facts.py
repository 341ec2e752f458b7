"""What to say of a stage beside its bytes: what a real step takes and the trace does not count, and its rows."""

from __future__ import annotations

from collections.abc import Iterator

from inspector.records.memory import BatchInput, Unaccounted
from inspector.records.recipe import Recipe
from inspector.records.steps.stages import split_row

__all__ = ["describe_rows", "find_stage_unaccounted"]


def find_stage_unaccounted(recipe: Recipe) -> Iterator[Unaccounted]:
    """Yield what the trainer of a stage takes that is in no figure."""
    if recipe.stage != "grpo":
        return
    if recipe.vllm_share is not None:
        why = f"{recipe.vllm_share:.0%} of the card, which a verdict leaves to it; it is outside these figures"
        yield Unaccounted(what="vLLM in the same process", why=why)
    else:
        why = (
            "the first token and the last one are traced, which take most; what the allocator reserves for the caches "
            "of the tokens in between may be more"
        )
        yield Unaccounted(what="fragments of generation", why=why)
    yield Unaccounted(what="reward models", why="rewards are taken to be functions on the host")


def describe_rows(recipe: Recipe) -> tuple[BatchInput, ...]:
    """Return the rows of a micro-batch of GRPO, which are made in the step."""
    lengths = split_row(recipe.seq_len or 0, recipe.prompt_len, recipe.completion_len, halves=True)
    return tuple(
        BatchInput(name=f"{part}_{kind}", shape=(recipe.batch_size, length), dtype="int64")
        for part, length in zip(("prompt", "completion"), lengths, strict=True)
        for kind in ("ids", "mask")
    )
