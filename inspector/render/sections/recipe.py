"""How a run goes, in a few words an option."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inspector.errors import one_line
from inspector.records.memory import RunMemory
from inspector.records.recipe import Recipe
from inspector.units import format_count

__all__ = ["describe_defaults", "describe_recipe", "format_shape"]

# Settings are names, which are short.
_LONGEST_SETTING = 20

# What a brief recipe always says, in its order.
_WORDS = {
    "batch_size": "batch size",
    "seq_len": "sequence length",
    "prompt_len": "prompt",
    "new_tokens": "new tokens",
    "optimizer": "optimizer",
    "gradient_checkpointing": "checkpointing",
    "mixed_precision": "mixed precision",
    "attention": "attention",
}


def describe_recipe(memory: RunMemory, *, brief: bool = False) -> str:
    """Return the recipe in words; `brief` leaves out what is as one expects it."""
    return ", ".join(_describe(memory, brief))


def describe_defaults(memory: RunMemory) -> str:
    """Return which of the words of a brief recipe nobody asked for; nothing where all were."""
    shown = [name for name in _WORDS if name in memory.workload.recipe_fields]
    if memory.recipe.seq_len is None and "seq_len" in shown:
        shown.remove("seq_len")
    taken = [name for name in shown if name in memory.defaults]
    return "all of it" if taken == shown else ", ".join(_WORDS[name] for name in taken)


def format_shape(shape: Sequence[int]) -> str:
    """Return a shape in words: `3 × 224 × 224`."""
    return " × ".join(format_count(size) for size in shape)


def _describe(memory: RunMemory, brief: bool) -> Iterator[str]:
    """Yield the batch, the update, and the code that runs."""
    recipe, trains = memory.recipe, memory.workload.trains
    yield f"batch size {format_count(recipe.batch_size)}"
    yield from _describe_generation(recipe, brief) if memory.workload.generates else _describe_sequence(memory, brief)
    if recipe.gradient_accumulation > 1:
        yield f"gradient accumulation {format_count(recipe.gradient_accumulation)}"
    if trains:
        yield from _describe_update(recipe, brief)
    yield f"mixed precision {'off' if recipe.mixed_precision == 'no' else _shorten(recipe.mixed_precision)}"
    is_fused = recipe.attention == "sdpa" and recipe.sdpa_backend != "auto"
    yield f"{_shorten(recipe.attention)}{f' ({_shorten(recipe.sdpa_backend)})' if is_fused else ''} attention"
    if recipe.use_cache and not memory.workload.generates:
        yield "KV cache filled"
    if trains and not (brief and recipe.loop == "trainer"):
        yield f"{_shorten(recipe.loop)} loop"
    if recipe.alloc_conf is not None:
        yield f"allocator {one_line(recipe.alloc_conf, 30 if brief else 200)}"


def _describe_sequence(memory: RunMemory, brief: bool) -> Iterator[str]:
    """Yield how long a sequence is and whether it is padded; of images their shape."""
    recipe = memory.recipe
    images = [item.shape for item in memory.inputs or () if item.name == "pixel_values"]
    if recipe.seq_len is None:
        yield from (f"images of {format_shape(shape[1:])}" for shape in images[:1])
        return
    yield f"sequence length {format_count(recipe.seq_len)}"
    padded = recipe.batch_size > 1 if recipe.padding is None else recipe.padding
    if padded or not brief:
        yield "with padding" if padded else "without padding"


def _describe_generation(recipe: Recipe, brief: bool) -> Iterator[str]:
    """Yield how long prompts are, what follows them, and what is kept."""
    yield f"{format_count(recipe.prompt_len)} + {format_count(recipe.new_tokens)} tokens"
    if recipe.padding or not brief:
        yield "with padding" if recipe.padding else "without padding"
    if recipe.prefill_chunk_size is not None:
        yield f"prompt in pieces of {format_count(recipe.prefill_chunk_size)}"
    if not brief or recipe.cache != "dynamic":
        yield f"{_shorten(recipe.cache)} cache" if recipe.cache != "none" else "no cache"


def _describe_update(recipe: Recipe, brief: bool) -> Iterator[str]:
    """Yield how weights are updated."""
    yield _shorten(recipe.optimizer) + (f" ({_shorten(recipe.optim_args)})" if recipe.optim_args else "")
    reentrant = " (reentrant)" if recipe.use_reentrant and not brief else ""
    yield f"checkpointing {'on' if recipe.gradient_checkpointing else 'off'}{reentrant}"
    if not recipe.max_grad_norm:
        yield "no clipping"
    elif not brief:
        yield f"gradients clipped to norm {recipe.max_grad_norm:g}"


def _shorten(text: object) -> str:
    """Return a setting on one line; what names it is short."""
    return one_line(text, _LONGEST_SETTING)
