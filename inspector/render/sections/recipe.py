"""How a run goes, in a few words an option."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inspector.errors import one_line
from inspector.records.memory import RowMedia, RunMemory
from inspector.records.recipe import Recipe, find_prompt_len
from inspector.records.steps.decoding import describe_decoding
from inspector.records.steps.losses import LossName
from inspector.records.steps.stages import PAIRED
from inspector.units import format_count

__all__ = ["describe_defaults", "describe_recipe", "format_shape"]

# Settings are names, which are short.
_LONGEST_SETTING = 20

_STAGES = {"dpo": "DPO", "kto": "KTO", "orpo": "ORPO", "cpo": "CPO", "reward": "reward training", "grpo": "GRPO"}
_REFERENCES = {"adapter": "reference: adapter off", "model": "reference: second model", "none": "no reference pass"}
# The input that a batch of pairs of texts has.
_OF_A_PAIR = "positive_input_ids"

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
    lengths = {"seq_len": memory.recipe.seq_len, "prompt_len": memory.recipe.prompt_len}
    shown = [name for name in shown if lengths.get(name, 0) is not None]
    taken = [name for name in shown if name in memory.defaults]
    return (
        "all of it" if taken == shown and memory.recipe.kernels is None else ", ".join(_WORDS[name] for name in taken)
    )


def format_shape(shape: Sequence[int]) -> str:
    """Return a shape in words: `3 × 224 × 224`."""
    return " × ".join(format_count(size) for size in shape)


def _describe(memory: RunMemory, brief: bool) -> Iterator[str]:
    """Yield the batch, the update, and the code that runs."""
    recipe, trains = memory.recipe, memory.workload.trains
    yield from _describe_stage(recipe)
    takes_pairs = any(item.name == _OF_A_PAIR for item in memory.inputs or ())
    of_pairs = takes_pairs or recipe.stage in PAIRED
    unit = "" if not of_pairs else " pair" if recipe.batch_size == 1 else " pairs"
    yield f"batch size {format_count(recipe.batch_size)}{unit}"
    if memory.workload.generates:
        yield from _describe_generation(recipe, memory.defaults, brief)
    else:
        yield from _describe_sequence(memory, brief)
    if takes_pairs:
        yield "in-batch negatives"
    if recipe.gradient_accumulation > 1:
        yield f"gradient accumulation {format_count(recipe.gradient_accumulation)}"
    if trains:
        yield from _describe_update(recipe, brief)
    yield f"mixed precision {'off' if recipe.mixed_precision == 'no' else _shorten(recipe.mixed_precision)}"
    is_fused = recipe.attention == "sdpa" and recipe.sdpa_backend != "auto"
    yield f"{_shorten(recipe.attention)}{f' ({_shorten(recipe.sdpa_backend)})' if is_fused else ''} attention"
    if recipe.frames is not None:
        yield f"videos of {format_count(recipe.frames)} frames"
    if recipe.labels is not None:
        yield f"{format_count(recipe.labels)} labels"
    if recipe.kernels is not None:
        yield f"{'torch code' if recipe.kernels == 'torch' else 'kernels'} of scans"
    if recipe.use_cache and not memory.workload.generates:
        yield "KV cache filled"
    if trains and recipe.loss != LossName.STOCK:
        yield f"{_shorten(recipe.loss)} loss"
    if trains and recipe.liger:
        yield f"Liger's {', '.join(map(_shorten, recipe.liger))}"
    if trains and recipe.lora_kernels:
        yield f"axolotl's LoRA kernels ({', '.join(map(_shorten, recipe.lora_kernels))})"
    if trains and not (brief and recipe.loop == "trainer"):
        yield f"{_shorten(recipe.loop)} loop"
    if recipe.alloc_conf is not None:
        yield f"allocator {one_line(recipe.alloc_conf, 30 if brief else 200)}"


def _describe_stage(recipe: Recipe) -> Iterator[str]:
    """Yield what the step is for, what its reference is, and how a row is shared out."""
    if recipe.stage is None:
        return
    reference = _REFERENCES.get(str(recipe.reference))
    yield _STAGES[str(recipe.stage)] + (f" ({reference})" if reference else "")
    if recipe.prompt_len is not None:
        yield f"prompts of {format_count(recipe.prompt_len)}"
    if recipe.completion_len is not None:
        yield f"answers of {format_count(recipe.completion_len)}"
    if recipe.vllm_share is not None:
        yield f"vLLM on {recipe.vllm_share:.0%} of the card"


def _describe_sequence(memory: RunMemory, brief: bool) -> Iterator[str]:
    """Yield how long a sequence is and whether it is padded; of images their shape."""
    recipe = memory.recipe
    images = [item for item in memory.inputs or () if item.name in _OF_IMAGES]
    if recipe.seq_len is None:
        yield from (f"{_OF_IMAGES[item.name]} of {format_shape(item.shape[1:])}" for item in images[:1])
        return
    yield f"sequence length {format_count(recipe.seq_len)}"
    if memory.media is not None:
        yield _describe_media(memory.media)
    if recipe.packing is not None:
        count = int(recipe.packing)
        packed = "" if count == 1 else f"packed from {format_count(count)} documents each, "
        yield f"{packed}concatenated without padding"
        return
    padded = recipe.batch_size > 1 if recipe.padding is None else recipe.padding
    if padded or not brief:
        yield "with padding" if padded else "without padding"


_OF_IMAGES = {"pixel_values": "images", "latents": "latents"}
_MEDIA = {"images": ("an image", "images"), "videos": ("a video", "videos"), "audio": ("a sound", "sounds")}


def _describe_media(media: RowMedia) -> str:
    """Return what each row holds beside text."""
    one, several = _MEDIA[media.kind]
    what = one if media.count == 1 else f"{media.count} {several}"
    each = " each" if media.count > 1 else ""
    return f"{what} of {format_count(media.tokens)} tokens{each} in it" if media.tokens > 1 else f"{what} beside it"


def _describe_generation(recipe: Recipe, defaults: Sequence[str], brief: bool) -> Iterator[str]:
    """Yield how long prompts are, how what follows them is chosen, and what is kept."""
    yield f"{format_count(find_prompt_len(recipe))} + {format_count(recipe.new_tokens)} tokens"
    if recipe.padding or not brief:
        yield "with padding" if recipe.padding else "without padding"
    if recipe.prefill_chunk_size is not None:
        yield f"prompt in pieces of {format_count(recipe.prefill_chunk_size)}"
    if recipe.adapter == "merged":
        yield "adapter merged"
    if recipe.generation or not brief:
        read = " (generation_config.json)" if recipe.generation and "generation" in defaults else ""
        yield f"{describe_decoding(recipe.generation or {})}{read}"
    if not brief or recipe.cache != "dynamic":
        yield f"{_shorten(recipe.cache)} cache" if recipe.cache != "none" else "no cache"


def _describe_update(recipe: Recipe, brief: bool) -> Iterator[str]:
    """Yield how weights are updated."""
    yield _shorten(recipe.optimizer) + (f" ({_shorten(recipe.optim_args)})" if recipe.optim_args else "")
    if recipe.train_only is not None:
        yield f"only {one_line(', '.join(recipe.train_only), 30 if brief else 200)} trains"
    if recipe.add_tokens is not None:
        yield f"{format_count(recipe.add_tokens)} tokens added"
    how = ", ".join(_describe_checkpoints(recipe, brief))
    yield f"checkpointing {'on' if recipe.gradient_checkpointing else 'off'}{f' ({how})' if how else ''}"
    if recipe.offload == "activations":
        yield "activations in host memory"
    if recipe.neftune is not None:
        yield f"NEFTune {recipe.neftune:g}"
    if not recipe.max_grad_norm:
        yield "no clipping"
    elif not brief:
        yield f"gradients clipped to norm {recipe.max_grad_norm:g}"


def _describe_checkpoints(recipe: Recipe, brief: bool) -> Iterator[str]:
    """Yield how blocks are checkpointed, as far as it is not as one expects it."""
    if recipe.use_reentrant and not brief:
        yield "reentrant"
    if recipe.checkpoint_every not in (None, 1):
        yield f"one block in {recipe.checkpoint_every}"
    if recipe.checkpoint_keeps is not None:
        yield f"{recipe.checkpoint_keeps} kept"
    if recipe.offload == "checkpoints":
        yield "in host memory"


def _shorten(text: object) -> str:
    """Return a setting on one line; what names it is short."""
    return one_line(text, _LONGEST_SETTING)
