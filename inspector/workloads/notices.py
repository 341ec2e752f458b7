"""What to say of any run of a model: its inputs, its shape, what was cut or assumed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from inspector.model.hash_seed import find_hash_ordered_layer_types
from inspector.model.sizes import find_number
from inspector.records.memory import BatchInput, BlockShape
from inspector.records.notice import LEFT_OUT, Notice
from inspector.records.recipe import Recipe
from inspector.trace.rules.moe_routing import loops_over_experts
from inspector.workloads.base import base_model
from inspector.workloads.batch import find_left_out
from inspector.workloads.inputs import Inputs, list_inputs
from inspector.workloads.kernels.scans import attends, find_scan_notices
from inspector.workloads.layer_drop import find_layer_drop
from inspector.workloads.limits import find_positions
from inspector.workloads.media.images import find_plain_size
from inspector.workloads.media.rows import Media
from inspector.workloads.packed_rows import count_document_tokens

__all__ = ["describe_inputs", "find_block_shape", "find_notices"]

_LEFT_OUT_MESSAGES = {
    "images": "The traced batch has text alone: images add what their tower keeps and the positions they take.",
    "sound": "The traced batch has text alone: sound adds what its tower keeps and the positions it takes.",
    "boxes": "The traced batch has no boxes: each token's place on its page adds rows of embeddings.",
}


def describe_inputs(inputs: Inputs) -> tuple[BatchInput, ...]:
    """Return the tensors of a batch as values."""
    return tuple(
        BatchInput(name=name, shape=item.shape, dtype=str(item.dtype).removeprefix("torch."))
        for name, item in list_inputs(inputs)
    )


def find_block_shape(model: Any) -> BlockShape | None:
    """Return what rules of thumb know of the text model, None where its configuration has no such sizes."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    try:
        config = base_model(model).config.get_text_config()
    except ValueError:  # MusicGen has two text parts, and neither stands for the whole
        return None
    sizes = [size for size in (find_number(config, name) for name in names) if size is not None]
    if len(sizes) != len(names):
        return None
    hidden, layers, heads = sizes
    return BlockShape(hidden_size=hidden, layer_count=layers, head_count=heads)


def find_notices(
    model: Any, asked: Recipe, recipe: Recipe, inputs: Iterable[str], media: Media | None = None
) -> Iterator[Notice]:
    """Yield what the user should know about running `recipe`, which is `asked` as it runs on `model`.

    `inputs` are the names of its batch, `media` what its rows hold beside text.
    """
    base = base_model(model)
    positions = find_positions(base)
    if recipe.seq_len is not None and asked.seq_len is not None and recipe.seq_len < asked.seq_len:
        # One that somebody gave is refused.
        message = f"The default sequence length of {asked.seq_len:,} is cut to the model's {recipe.seq_len:,}."
        yield Notice(code="seq-len-clamped", message=message)
    elif media is None and recipe.seq_len is not None and asked.seq_len is not None and recipe.seq_len > asked.seq_len:
        message = (
            f"The default sequence length of {asked.seq_len:,} is {recipe.seq_len:,} here: the class trains on so many."
        )
        yield Notice(code="seq-len-lengthened", message=message)
    elif (
        recipe.seq_len is not None
        and positions is not None
        and (length := count_document_tokens(recipe) or 0) > positions
    ):
        message = (
            f"Sequences of {length:,} tokens are longer than the {positions:,} positions that the model is made for."
        )
        yield Notice(code="beyond-positions", message=message)
    if asked.attention is None and recipe.attention == "eager" and recipe.seq_len is not None and attends(base):
        message = (
            f"{type(base).__name__} has no sdpa in transformers: eager attention makes the matrix of all scores, which "
            "grows with the square of the sequence length."
        )
        yield Notice(code="eager-attention", message=message)
    yield from _find_media_notices(base, asked, recipe, inputs, media)
    if loops_over_experts(base):
        message = "Experts run one after the other: the trace assumes that each takes the same number of tokens."
        yield Notice(code="balanced-experts", message=message)
    if probability := find_layer_drop(base):
        message = (
            f"{type(base).__name__} leaves out layers at random while it trains (a probability of {probability:g}): "
            "the trace runs all of them, which takes the most."
        )
        yield Notice(code="all-layers", message=message)
    kinds = find_hash_ordered_layer_types(base)
    if kinds:
        message = (
            f"{type(base).__name__} goes through its kinds of layers ({', '.join(kinds)}) in the order of their "
            "hashes, which PYTHONHASHSEED sets: another process may reserve 2 MiB more or less."
        )
        yield Notice(code="hash-seed", message=message)
    yield from find_scan_notices(base, recipe)


def _find_media_notices(
    base: Any, asked: Recipe, recipe: Recipe, inputs: Iterable[str], media: Media | None
) -> Iterator[Notice]:
    """Yield what a batch leaves out beside text, and what its images, videos and sound were taken to be."""
    no_images = recipe.images == 0 or bool(recipe.videos)
    asked_for_none = {"images": no_images, "sound": no_images or recipe.audio_seconds == 0}
    for kind in find_left_out(base, inputs):
        if asked_for_none.get(kind):
            continue
        yield Notice(code=LEFT_OUT[kind], message=_LEFT_OUT_MESSAGES[kind])
    images = [item for name, item in inputs.items() if name == "pixel_values"] if isinstance(inputs, Mapping) else []
    if images and media is None and asked.image_size is None and find_plain_size(base) is None:
        height, width = images[0].shape[-2:]
        message = (
            f"Neither config.json nor the processor says how large images are: {width} x {height} is taken "
            "(`image_size`)."
        )
        yield Notice(code="image-size-assumed", message=message)
    if media is None:
        return
    if asked.seq_len is not None and recipe.seq_len is not None and recipe.seq_len > asked.seq_len:
        message = f"The default sequence length of {asked.seq_len:,} is {recipe.seq_len:,} here, to hold {media.words}."
        yield Notice(code="seq-len-lengthened", message=message)
    if media.assumed is not None:
        yield Notice(code="media-assumed", message=f"Each sequence has {media.words}. Assumed: {media.assumed}.")
