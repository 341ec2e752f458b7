"""Tasks of text in which places are marked: entities, cells of a table, questions, separators, a protein beside it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from inspector.records.recipe import Recipe
from inspector.workloads.inputs import BatchError, Input, Inputs
from inspector.workloads.tasks.registry import list_arguments, make_mask, register

__all__: list[str] = []

# Endings to choose from, as in SWAG (examples/pytorch/multiple-choice of transformers).
_CHOICES = 4
# Tokens of a mention, and spans of a sentence (luke/tokenization_luke.py, `max_mention_length`, `max_entity_length`).
_MENTION, _SPANS = 30, 32
# Spans of a passage that are masked (Splinter's pre-training masks up to so many).
_QUESTIONS = 30
# What TAPAS is told of each token (tapas/tokenization_tapas.py): segment, column, row, previous label and three more.
_TYPES_OF_TOKEN = 7


@register("LongformerForMultipleChoice", main=("input_ids",))
def _make_separated_choices(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make a row for each choice, with the separators between what is asked and an answer, and which one is right."""
    rows, length = ids.shape
    shape = (rows, _CHOICES, length)
    return {
        "input_ids": _separate(model, shape, ids.value),
        "attention_mask": Input(shape=shape, value=1),
        "labels": Input(shape=(rows,)),
    }


@register("LongformerForQuestionAnswering", main=("input_ids",))
def _make_separated_spans(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make a question and a passage with the separators between them, and where the answer starts and ends."""
    position = Input(shape=ids.shape[:1])
    rows = _separate(model, ids.shape, ids.value)
    return {"input_ids": rows, **make_mask(recipe, ids), "start_positions": position, "end_positions": position}


@register("ForEntityClassification", "ForEntityPairClassification", "ForEntitySpanClassification", main=("input_ids",))
def _make_entities(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make text and the entities in it, one, two or as many spans as may be one, and a class of each or of all."""
    name, rows = type(model).__name__, ids.shape[0]
    has_spans = "entity_start_positions" in list_arguments(model)
    count = _SPANS if has_spans else 2 if "Pair" in name else 1
    entities = (rows, count)
    position = Input(shape=entities)
    return {
        "input_ids": ids,
        **make_mask(recipe, ids),
        "entity_ids": Input(shape=entities, value=1),
        "entity_attention_mask": Input(shape=entities, value=1),
        "entity_position_ids": Input(shape=(*entities, _MENTION), value=1),
        **({"entity_start_positions": position, "entity_end_positions": position} if has_spans else {}),
        "labels": Input(shape=entities if has_spans else (rows,)),
    }


@register("BrosSpadeEEForTokenClassification", main=("input_ids",))
def _make_linked_tokens(_model: Any, _recipe: Recipe, ids: Input) -> Inputs:
    """Make text on a page, the class of the tokens that begin an entity, and which token follows each."""
    return {"input_ids": ids, "initial_token_labels": Input(shape=ids.shape), "subsequent_token_labels": ids}


@register("SplinterForPreTraining", main=("input_ids",))
def _make_recurring_spans(_model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make a passage with questions in the place of spans, and where else each of these stands."""
    places = Input(shape=(ids.shape[0], _QUESTIONS), value=1)
    return {
        "input_ids": ids,
        **make_mask(recipe, ids),
        "start_positions": places,
        "end_positions": places,
        "question_positions": places,
    }


@register("TapasForQuestionAnswering", main=("input_ids",))
def _make_cells(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make a question and a table, which of its cells answer it, and how they are summed up where that is learned."""
    config, rows = model.config, ids.shape[0]
    made: dict[str, Input] = {}
    if config.num_aggregation_labels > 0 and config.use_answer_as_supervision:
        numbers = Input(shape=ids.shape, dtype=torch.float32, value=1, is_read=True)
        answer = Input(shape=(rows,), dtype=torch.float32, value=1, is_read=True)
        made = {"float_answer": answer, "numeric_values": numbers, "numeric_values_scale": numbers}
    elif config.num_aggregation_labels > 0:
        made = {"aggregation_labels": Input(shape=(rows,))}
    return {
        "input_ids": ids,
        "attention_mask": Input(shape=ids.shape, value=1, last=0 if recipe.padding else None),
        "token_type_ids": Input(shape=(*ids.shape, _TYPES_OF_TOKEN), value=1),
        "labels": ids if ids.value in (0, 1) else Input(shape=ids.shape, value=1),
        **made,
    }


@register("ForProteinText2Text", main=("input_ids",))
def _make_proteins(_model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make what is said of a protein, and its amino acids with their structure, as many as there are tokens."""
    return {
        "input_ids": ids,
        "attention_mask": Input(shape=ids.shape, value=1, last=0 if recipe.padding else None),
        "protein_input_ids": Input(shape=ids.shape, value=5),
        "protein_attention_mask": Input(shape=ids.shape, value=1),
        "labels": ids,
    }


@register("SeamlessM4TTextToUnitForConditionalGeneration", main=("input_ids",))
def _make_units(model: Any, _recipe: Recipe, ids: Input) -> Inputs:
    """Make the states of a decoder of text, and the units of sound that it is said with."""
    embedded = Input(shape=(*ids.shape, model.config.hidden_size), dtype=torch.float32)
    labels = Input(shape=ids.shape, value=4)  # behind the special units
    return {"inputs_embeds": embedded, "attention_mask": Input(shape=ids.shape, value=1), "labels": labels}


def _separate(model: Any, shape: tuple[int, ...], text: int) -> Input:
    """Return rows with a separator at their end and two between their parts."""
    token = model.config.sep_token_id
    if not isinstance(token, int):
        raise BatchError(f"{type(model).__name__} looks for separators, and its config names no such token")
    if shape[-1] < 4:
        raise BatchError(f"{type(model).__name__} takes sequences of two parts: use `seq_len=4` at least")
    return Input(shape=shape, make=functools.partial(_write_separators, shape, text, token))


def _write_separators(shape: tuple[int, ...], text: int, separator: int) -> Tensor:
    """Return rows of text with three separators."""
    rows = torch.full(shape, text, dtype=torch.int64)
    middle = shape[-1] // 2
    rows[..., middle - 1 : middle + 1] = separator
    rows[..., -1] = separator
    return rows
