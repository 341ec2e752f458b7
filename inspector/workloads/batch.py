"""The batch of a training step: kind of model -> the inputs that a Trainer with the usual collator feeds it.

A registry of small pure functions: the first kind that fits the class's name and its main input makes the inputs from
the configuration and the recipe. An `Input` describes one tensor, so that the same batch can be made on meta for a
trace and with data for a real step. Values are plausible (every token is the first that is not special, one position of
the last sequence is padded): what a step allocates does not depend on them, but control flow reads some.

A bare encoder has no loss of its own: it is trained on pairs of texts (`training.contrastive`), and gets those.

A sequence has at most as many tokens as the text part of the model has learned positions for: beyond its table a real
run raises (`find_longest_sequence`). Images, videos and sound among tokens are `media`'s.

What is not here is made by task (`tasks`).
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from inspector.model.skeleton import find_head
from inspector.records.recipe import Recipe
from inspector.workloads.inputs import BatchError, Input, Inputs
from inspector.workloads.media import rows as media_rows
from inspector.workloads.media.images import make_plain_images
from inspector.workloads.media.patches import make_plain_inputs
from inspector.workloads.media.rows import Media, make_rows
from inspector.workloads.tasks import add_needed, find_own_task, find_task, make_ending_ids, make_sound

__all__ = [
    "PAIR_COLUMNS",
    "BatchError",
    "Input",
    "Inputs",
    "find_left_out",
    "find_longest_sequence",
    "find_media",
    "find_plain_token",
    "is_bare_encoder",
    "make_batch_inputs",
    "make_inputs_without_labels",
    "pairs_texts_with_images",
]

# The label of positions that do not count in the loss (torch.nn.functional.cross_entropy, ignore_index).
_IGNORED = -100
# Embeddings of positions, as transformers' classes call them, and the towers whose positions are not those of text.
_POSITIONS = re.compile(r"(^|\.)(wpe|pos_embed\w*|position_embed\w*|embed_positions|positions_embed)$")
_TOWERS = re.compile(r"vision|image|visual|audio|speech")
# The texts of a pair, as columns of a data set: the inputs of each start with its name.
PAIR_COLUMNS = ("anchor", "positive")
# Encoders whose tokenizer also says which segment a token is of (transformers 5.23, `model_input_names` of the class
# that TOKENIZER_MAPPING_NAMES has for the type).
_WITH_SEGMENTS = frozenset(
    (
        *("bert", "convbert", "deberta", "deberta-v2", "electra", "ernie", "layoutlm", "megatron-bert", "nomic_bert"),
        *("squeezebert", "tapas"),
    )
)
# Heads whose labels are tokens that follow.
_OF_TOKENS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
# What of a model's arguments is which kind of input.
_KINDS_OF_INPUT = {
    "images": re.compile(r"(image_)?pixel_values($|_images)|flattened_patches$|image_patches$"),
    "sound": re.compile(r"(audio_)?input_features$|input_values$|audio_(values|input_ids)$"),
    "boxes": re.compile(r"bbox$"),
}
# What a model takes that has a loss.
_LABELS = ("labels", "return_loss", "start_positions", "future_values", "target_values", "spectrogram_labels")
# Heads that a bare model of the same type may have, in the order in which they are worth naming.
_HEADS = (
    "AutoModelForSeq2SeqLM",
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForImageTextToText",
    "AutoModelForImageClassification",
)


_Maker = Callable[[Any, Recipe], Inputs]


def make_batch_inputs(model: Any, recipe: Recipe) -> Inputs:
    """Return the inputs of a micro-batch of a resolved `recipe` for a transformers model, in the order they are made.

    Raises BatchError where there is no such batch.
    """
    media = find_media(model, recipe)
    if media is not None:
        return make_rows(model, recipe, media, _make_ids(model, recipe))
    return add_needed(model, recipe, _find_maker(model)(model, recipe))


def find_media(model: Any, recipe: Recipe) -> Media | None:
    """Return the images, videos or sound in the rows of a language model's batch, None for text alone."""
    if _is_language_model(model):
        return media_rows.find_media(model, recipe, _list_arguments(model))
    if recipe.videos:
        raise BatchError(f"{type(model).__name__} takes no videos among text: drop `videos`")
    return None


def make_inputs_without_labels(model: Any, recipe: Recipe) -> Inputs:
    """Return the inputs of a forward pass alone for a transformers model; raises BatchError where none are known.

    An encoder-decoder gets as many tokens for its decoder as for its encoder, one of text and speech those of the text.
    """
    name, arguments = type(model).__name__, _list_arguments(model)
    decoder: dict[str, Input] = {}
    if getattr(model.config, "is_encoder_decoder", False) and "decoder_input_ids" in arguments:
        decoder = {"decoder_input_ids": _make_ids(model, recipe)}
    if _takes_images_alone(model):
        return make_plain_inputs(model, recipe)
    if model.main_input_name == "pixel_values" and decoder:
        return {**make_plain_inputs(model, recipe), **decoder}
    if pairs_texts_with_images(model):
        return {key: item for key, item in _make_pairs(model, recipe).items() if key != "return_loss"}
    if model.main_input_name == "input_ids":
        return {"input_ids": _make_ids(model, recipe), **_make_mask(recipe), **decoder}
    if model.main_input_name == "input_features":
        return {"input_features": make_sound(model, recipe)["input_features"], **decoder}
    raise BatchError(f"which inputs {name} takes is not known here")


def find_plain_token(model: Any) -> int:
    """Return the first token that is not special to the model."""
    named = (value for name, value in model.config.to_dict().items() if name.endswith("_token_id"))
    special = {number for value in named for number in (value if isinstance(value, list) else [value])}
    return next(number for number in range(len(special) + 1) if number not in special)


def find_longest_sequence(model: Any) -> int | None:
    """Return how many tokens a sequence may have; 0 where the model takes none, None where nothing bounds them.

    What bounds them is a table of learned positions in the text part; rotary and relative positions have no end.
    """
    if _takes_images_alone(model) or model.main_input_name == "latents":
        return 0
    prefix = f"{getattr(model, 'base_model_prefix', '')}."  # that of VisualBERT looks like a tower's
    tables = [
        module.weight.shape[0] - _find_first_position(module) - _count_ahead(model)
        for name, module in model.named_modules()
        if _is_table(module) and _POSITIONS.search(name) and not _TOWERS.search(name.removeprefix(prefix))
        # The encoder of speech counts frames, not tokens, and that of images patches.
        if not (model.main_input_name == "input_features" and "encoder." in name)
        and not (model.main_input_name == "pixel_values" and name.startswith("encoder."))
    ]
    # Some number their positions in a buffer, fewer than the table has rows (MRA, Nyströmformer).
    numbered = [
        buffer.shape[-1]
        for name, buffer in model.named_buffers()
        if name.endswith("embeddings.position_ids") and not _TOWERS.search(name.removeprefix(prefix))
    ]
    # Without a table positions may be relative; those of a text that is held against images are sinusoids then.
    return min((*tables, *numbered), default=None) if tables or "return_loss" in _list_arguments(model) else None


def _is_table(module: nn.Module) -> bool:
    """Tell whether a module is a table of embeddings; I-BERT's is a class of its own."""
    return isinstance(module, nn.Embedding) or type(module).__name__ == "QuantEmbedding"


def _count_ahead(model: Any) -> int:
    """Return how many positions beyond a row's last one are looked up: ProphetNet's second stream predicts from one."""
    return 1 if getattr(model.config, "ngram", None) else 0


def find_left_out(model: Any, inputs: Iterable[str]) -> tuple[str, ...]:
    """Return what a model takes beside text of which a batch of `inputs` has none: images, sound, boxes, ..."""
    arguments, given = _list_arguments(model), list(inputs)
    return tuple(
        kind
        for kind, pattern in _KINDS_OF_INPUT.items()
        if any(map(pattern.match, arguments)) and not any(map(pattern.match, given))
    )


def pairs_texts_with_images(model: Any) -> bool:
    """Tell whether a model is trained on pairs of texts and images, each told apart from all others of the batch."""
    return {"return_loss", "pixel_values", "input_ids"} <= _list_arguments(model)


def is_bare_encoder(model: Any) -> bool:
    """Tell whether a model is an encoder of text without a head, as embedding models are published.

    Encoders are the types that have a head for masked tokens, but for decoders of the same class and encoder-decoders,
    the encoders of those alone (T5), and decoders in which every token sees all others (EmbeddingGemma).
    """
    arguments = _list_arguments(model)
    return (
        getattr(model, "main_input_name", None) == "input_ids"  # a live module may be none of transformers
        and {"input_ids", "attention_mask"} <= arguments
        and not arguments & {*_LABELS, "decoder_input_ids", "pixel_values"}
        and not getattr(model.config, "is_decoder", False)
        and (
            find_head(model.config, ("AutoModelForMaskedLM",)) is not None
            or type(model).__name__.endswith("EncoderModel")
            or getattr(model.config, "use_bidirectional_attention", False) is True
        )
    )


def _is_language_model(model: Any) -> bool:
    """Tell whether a model is trained on labels of tokens."""
    arguments = _list_arguments(model)
    return "labels" in arguments and type(model).__name__.endswith(_OF_TOKENS)


def _takes_images_alone(model: Any) -> bool:
    """Tell whether a model takes images and no tokens."""
    return model.main_input_name == "pixel_values" and not {"input_ids", "decoder_input_ids"} & _list_arguments(model)


# --- kinds of models --------------------------------------------------------------------------------------------------

_KINDS: dict[tuple[str, str], _Maker] = {}


def _register(*endings: str, main: str) -> Callable[[_Maker], _Maker]:
    """Register what makes the batch of classes whose names end so and whose main input is `main`."""

    def register(maker: _Maker) -> _Maker:
        for ending in endings:
            if (ending, main) in _KINDS:
                raise ValueError(f"two kinds of batch for {ending} with {main}")
            _KINDS[ending, main] = maker
        return maker

    return register


@_register(*_OF_TOKENS, "ForMaskedLM", main="input_ids")
def _make_tokens(model: Any, recipe: Recipe) -> Inputs:
    """Make ids, and labels of the same length: language models, and encoder-decoders.

    An encoder-decoder makes its decoder's inputs from the labels. Padded positions have a label that does not count.
    """
    ids = _make_ids(model, recipe)
    labels = dataclasses.replace(ids, last=_IGNORED if recipe.padding else None)
    return {"input_ids": ids, "labels": labels, **_make_mask(recipe)}


@_register("ForTokenClassification", main="input_ids")
def _make_token_labels(model: Any, recipe: Recipe) -> Inputs:
    """Make ids, and a class of each token; padded positions have one that does not count."""
    ids = _make_ids(model, recipe)
    labels = dataclasses.replace(ids, value=0, last=_IGNORED if recipe.padding else None)
    return {"input_ids": ids, "labels": labels, **_make_mask(recipe)}


@_register("ForSequenceClassification", main="input_ids")
def _make_sequence_labels(model: Any, recipe: Recipe) -> Inputs:
    """Make ids and labels of sequences: a class each, a number each for regression, or a float for every class."""
    config = model.config
    ids = _make_ids(model, recipe)
    if getattr(config, "is_encoder_decoder", False):  # the last end of each row is what is looked at
        ids = make_ending_ids(ids, _find_end(model))
    problem = getattr(config, "problem_type", None) or ("regression" if config.num_labels == 1 else None)
    if problem == "multi_label_classification":
        labels = Input(shape=(recipe.batch_size, config.num_labels), dtype=torch.float32)
    else:
        dtype = torch.float32 if problem == "regression" else torch.int64
        labels = Input(shape=(recipe.batch_size,), dtype=dtype)
    return {"input_ids": ids, **_make_mask(recipe), "labels": labels}


@_register("ForQuestionAnswering", main="input_ids")
def _make_spans(model: Any, recipe: Recipe) -> Inputs:
    """Make ids, and where each sequence's answer starts and ends."""
    position = Input(shape=(recipe.batch_size,))
    return {
        "input_ids": _make_ids(model, recipe),
        **_make_mask(recipe),
        "start_positions": position,
        "end_positions": position,
    }


@_register("ForImageClassification", main="pixel_values")
def _make_image_labels(model: Any, recipe: Recipe) -> Inputs:
    """Make images as an image processor gives them, in float32, and a class of each."""
    return {**make_plain_inputs(model, recipe), "labels": Input(shape=(recipe.batch_size,))}


@_register("ForSemanticSegmentation", main="pixel_values")
def _make_image_maps(model: Any, recipe: Recipe) -> Inputs:
    """Make images and a class of each of their pixels."""
    images = make_plain_images(model, recipe)
    return {"pixel_values": images, "labels": Input(shape=(images.shape[0], *images.shape[2:]))}


def _make_pairs(model: Any, recipe: Recipe) -> Inputs:
    """Make pairs of text and image; models such as CLIP return a loss when they are asked for it."""
    images = make_plain_inputs(model, recipe)
    return {"input_ids": _make_ids(model, recipe), **_make_mask(recipe), **images, "return_loss": True}


def _make_text_pairs(model: Any, recipe: Recipe) -> Inputs:
    """Make pairs of texts as sentence-transformers' collator does: what the tokenizer gives for each, with a mask."""
    ids = _make_ids(model, recipe)
    inputs = {"input_ids": ids}
    if model.config.model_type in _WITH_SEGMENTS and "token_type_ids" in _list_arguments(model):
        inputs["token_type_ids"] = dataclasses.replace(ids, value=0)
    inputs["attention_mask"] = dataclasses.replace(ids, value=1, last=0 if recipe.padding else None)
    return {f"{column}_{name}": item for column in PAIR_COLUMNS for name, item in inputs.items()}


def _find_maker(model: Any) -> _Maker:
    """Return what makes the batch of a model; raises BatchError with the reason where nothing does."""
    name, arguments = type(model).__name__, _list_arguments(model)
    task = find_own_task(model)
    for (ending, main), maker in () if task else _KINDS.items():
        if name.endswith(ending) and model.main_input_name == main and (main in arguments):
            return maker
    task = task or find_task(model)
    if task is not None:
        return lambda model, recipe: task(model, recipe, _make_ids(model, recipe))
    is_encoder_decoder = getattr(model.config, "is_encoder_decoder", False)
    if is_encoder_decoder and model.main_input_name == "input_ids" and {"labels", "decoder_input_ids"} <= arguments:
        return _make_tokens
    if pairs_texts_with_images(model):
        return _make_pairs
    if is_bare_encoder(model):
        return _make_text_pairs
    if model.main_input_name == "latents":
        raise BatchError(f"the training step of a {name} of diffusers is not known here")
    if not arguments & {*_LABELS}:
        head, part = find_head(model.config, _HEADS), _find_trained_part(model)
        advice = f"; the same model with a head is `model_class={head.__name__}`" if head else ""
        advice = f"; its part that trains is `model_class={type(part).__name__}`" if part is not None else advice
        raise BatchError(f"{name} alone has no loss to train on{advice}")
    raise BatchError(f"which batch {name} trains on is not known here")


# --- inputs -----------------------------------------------------------------------------------------------------------


def _make_ids(model: Any, recipe: Recipe) -> Input:
    """Return ids of tokens, none of which is special to the model."""
    return Input(shape=(recipe.batch_size, recipe.seq_len or 0), value=find_plain_token(model))


def _find_end(model: Any) -> int:
    """Return the token that ends a sequence."""
    end = model.config.eos_token_id
    end = end[0] if isinstance(end, (list, tuple)) and end else end
    if not isinstance(end, int):
        raise BatchError(
            f"{type(model).__name__} looks for the ends of its sequences, and its config names no such token"
        )
    return end


def _make_mask(recipe: Recipe) -> dict[str, Input]:
    """Return the attention mask of a padded batch, or of a collator that always sends one.

    How many positions are padded does not change what is allocated; that none is does: sdpa goes without a mask then.
    """
    if not recipe.padding and not recipe.attention_mask:
        return {}
    shape = (recipe.batch_size, recipe.seq_len or 0)
    return {"attention_mask": Input(shape=shape, value=1, last=0 if recipe.padding else None)}


def _find_trained_part(model: Any) -> Any:
    """Return the part of a whole without a forward of its own that has a loss."""
    if type(model).forward is not nn.Module.forward:
        return None
    return next((part for part in model.children() if _list_arguments(part) & {*_LABELS}), None)


# --- what a class says ------------------------------------------------------------------------------------------------


def _list_arguments(model: Any) -> set[str]:
    """Return the names of what a model's forward takes."""
    return set(inspect.signature(type(model).forward).parameters)


def _find_first_position(table: nn.Embedding) -> int:
    """Return the row of a table of positions that belongs to a sequence's first token.

    OPT's and BART's tables have an offset; RoBERTa's start behind the padding index.
    """
    offset = getattr(table, "offset", None)
    if isinstance(offset, int):
        return offset
    return 0 if table.padding_idx is None else table.padding_idx + 1
