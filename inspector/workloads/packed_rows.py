"""The batch of packed and of padding-free training: all documents of a micro-batch in one row, one after the other.

What TRL's collator feeds for packing and for padding-free batches (TRL 1.16, trainer/sft_trainer.py,
`DataCollatorForLanguageModeling.torch_call`), and transformers' `DataCollatorWithFlattening` with both of its switches:
positions that start anew with each document, and for flash-attn and for linear attention where documents begin, how
long the longest is and to which one a token belongs. There is no mask. sdpa and eager attention make a square of it
from the positions (transformers/masking_utils.py, `find_packed_sequence_indices`).

Documents are as equal in length as can be: what a step allocates depends on how many there are, not on their lengths.

Not covered: positions alone, from which transformers computes the same for flash-attn in every layer.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any

import torch
from torch import Tensor

from inspector.records.recipe import Recipe
from inspector.workloads.batch import BatchError, Input, Inputs, make_batch_inputs

__all__ = ["count_document_tokens", "make_packed_inputs"]

# What attention reads of where documents begin (transformers/modeling_flash_attention_utils.py, FlashAttentionKwargs).
_STARTS = ("cu_seq_lens_q", "cu_seq_lens_k")
_LONGEST = ("max_length_q", "max_length_k")
_IGNORED = -100


def count_document_tokens(recipe: Recipe) -> int | None:
    """Return how long the longest document of a recipe is, None where its model takes no tokens."""
    return None if recipe.seq_len is None else -(-recipe.seq_len // (int(recipe.packing or 1)))


def make_packed_inputs(model: Any, recipe: Recipe) -> Inputs:
    """Return the inputs of a micro-batch of packed rows for a transformers model, in the order they are made.

    Raises BatchError where the model is no decoder of text, or takes no positions.
    """
    if recipe.images or recipe.videos:
        raise BatchError("packed rows are of text alone here: use `images=0`, or drop `packing`")
    tokens = recipe.batch_size * (recipe.seq_len or 0)
    row = dataclasses.replace(recipe, packing=None, batch_size=1, seq_len=tokens, padding=False, images=0)
    usual = make_batch_inputs(model, row)
    ids, labels = usual.get("input_ids"), usual.get("labels")
    is_encoder_decoder = getattr(model.config, "is_encoder_decoder", False)
    if not isinstance(ids, Input) or not isinstance(labels, Input) or ids.shape != labels.shape or is_encoder_decoder:
        raise BatchError(f"packed rows are of decoders of text, which {type(model).__name__} is not")
    arguments = inspect.signature(type(model).forward).parameters
    if "position_ids" not in arguments:
        raise BatchError(f"{type(model).__name__} takes no positions, without which packed documents run together")
    lengths = _split_evenly(recipe)
    count = len(lengths)
    batch: dict[str, Input | int] = {
        "input_ids": ids,
        "labels": dataclasses.replace(labels, make=functools.partial(_make_labels, lengths, labels.value)),
        "position_ids": Input(shape=ids.shape, make=functools.partial(_make_positions, lengths)),
    }
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in arguments.values()):
        starts = Input(shape=(count + 1,), dtype=torch.int32, make=functools.partial(_make_starts, lengths))
        batch |= dict.fromkeys(_STARTS, starts) | dict.fromkeys(_LONGEST, int(lengths.max()))
        numbers = functools.partial(_number_documents, lengths)
        batch["seq_idx"] = Input(shape=ids.shape, dtype=torch.int32, make=numbers)
    return batch


def _split_evenly(recipe: Recipe) -> Tensor:
    """Return the length of each document of a micro-batch."""
    length, count = recipe.seq_len or 1, min(int(recipe.packing or 1), recipe.seq_len or 1)
    short, rest = divmod(length, count)
    return torch.tensor(([short + 1] * rest + [short] * (count - rest)) * recipe.batch_size)


def _make_positions(lengths: Tensor) -> Tensor:
    """Return the positions of a row, from 0 in each document."""
    starts = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return (torch.arange(int(lengths.sum())) - starts)[None]


def _make_labels(lengths: Tensor, label: int) -> Tensor:
    """Return the labels of a row; the first token of a document follows from nothing."""
    labels = torch.full((1, int(lengths.sum())), label)
    labels[:, lengths.cumsum(0) - lengths] = _IGNORED
    return labels


def _make_starts(lengths: Tensor) -> Tensor:
    """Return where documents begin, and the end of the last one."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def _number_documents(lengths: Tensor) -> Tensor:
    """Return the document of each token."""
    return torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), lengths)[None]
