"""What a forward pass takes beside the batch of its task, by the names of its arguments: boxes, what a decoder reads.

Most classes that take such an argument do without it, and are traced without. A row of the table says which argument
the models of which types stop without, or are never trained without: boxes, which the model else makes itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from inspector.records.recipe import Recipe
from inspector.workloads.inputs import Input, Inputs
from inspector.workloads.tasks.registry import list_arguments

__all__ = ["add_needed"]


def _make_boxes(ids: Input) -> Input:
    """Return the box of each token, in parts of the page."""
    return Input(shape=(*ids.shape, 4), dtype=torch.float32)


def _make_whole_boxes(ids: Input) -> Input:
    """Return the box of each token, in thousandths of the page."""
    return Input(shape=(*ids.shape, 4))


def _make_mask(ids: Input) -> Input:
    """Return a mask, which the class reads itself."""
    return Input(shape=ids.shape, value=1)


def _mark_tokens(ids: Input) -> Input:
    """Return which tokens are the first of their box: all."""
    return Input(shape=ids.shape, dtype=torch.bool, value=1)


_NEEDED: tuple[tuple[str, frozenset[str], Callable[[Input], Input]], ...] = (
    ("bbox", frozenset(("bros", "udop")), _make_boxes),
    ("bbox", frozenset(("layoutlm", "layoutlmv3", "lilt")), _make_whole_boxes),
    ("attention_mask", frozenset(("bros",)), _make_mask),
    ("bbox_first_token_mask", frozenset(("bros",)), _mark_tokens),
)


# Types whose rows go with an image of their page, as large as the configuration says.
_WITH_PAGES = frozenset(("layoutlmv3",))
# Models of an encoder and a decoder of any kind whose configuration may not say what the decoder begins with.
_JOINED = frozenset(("encoder-decoder", "speech-encoder-decoder", "vision-encoder-decoder", "cohere_asr"))


def add_needed(model: Any, recipe: Recipe, inputs: Inputs) -> Inputs:
    """Return a batch with what the forward of a model does not do without, and is not trained without."""
    arguments, ids, labels = list_arguments(model), inputs.get("input_ids"), inputs.get("labels")
    made: dict[str, Input] = {}
    if isinstance(ids, Input):
        for name, types, make in _NEEDED:
            if model.config.model_type in types and name in arguments and name not in inputs:
                made[name] = make(ids)
        if model.config.model_type in _WITH_PAGES and "pixel_values" in arguments and recipe.images != 0:
            side = int(model.config.input_size)
            made["pixel_values"] = Input(shape=(ids.shape[0], 3, side, side), dtype=torch.float32)
    if isinstance(labels, Input) and "decoder_input_ids" not in inputs and _names_no_start(model.config):
        made["decoder_input_ids"] = replace(labels, last=None, value=max(labels.value, 0))
    return {**inputs, **made} if made else inputs


def _names_no_start(config: Any) -> bool:
    """Tell whether a decoder's inputs cannot be made of labels, so that a collator has to."""
    tokens = (getattr(config, name, None) for name in ("decoder_start_token_id", "pad_token_id"))
    return config.model_type in _JOINED and None in tokens
