"""Tasks of sound as codes: rows of numbers from a codec's codebooks, or its latents, that a model reads and continues.

Where the codec is no part of the model, the codes of a data set are written down once, as the classes' processors
return them. A row of codes is as long as `seq_len` says; a row that holds text and sound is text in
its first half.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from inspector.records.recipe import Recipe
from inspector.records.steps.media import ASSUMED_SECONDS
from inspector.workloads.inputs import Input, Inputs
from inspector.workloads.tasks.registry import make_mask, register

__all__: list[str] = []

_IGNORED = -100
# What no codebook has as a special code: their special ones are the last.
_CODE = 1


@register("MusicgenForCausalLM", "MusicgenMelodyForCausalLM", main=("input_ids",))
def _make_codes(model: Any, _recipe: Recipe, ids: Input) -> Inputs:
    """Make codes of music, a row for each codebook, and those that follow."""
    rows, length, books = *ids.shape, int(model.config.num_codebooks)
    return {
        "input_ids": Input(shape=(rows * books, length), value=ids.value),
        "labels": Input(shape=(rows, length, books), value=ids.value),
    }


@register("MusicgenForConditionalGeneration", "MusicgenMelodyForConditionalGeneration", main=("input_ids",))
def _make_described_codes(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make a description and codes of music; the decoder's inputs where no token is named that they start with."""
    decoder = model.config.decoder
    rows, length, books = *ids.shape, int(decoder.num_codebooks)
    starts = {}
    if _shifts_by(model) and getattr(decoder, "decoder_start_token_id", None) is None:
        starts["decoder_input_ids"] = Input(shape=(rows * books, length), value=_CODE)
    labels = Input(shape=(rows, length, books), value=_CODE)
    return {"input_ids": ids, **make_mask(recipe, ids), **starts, "labels": labels}


@register("DiaForConditionalGeneration", main=("input_ids",))
def _make_delayed_codes(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make text and codes of speech with their masks, and codes that follow, a row for each channel.

    As DiaProcessor returns them with `output_labels`.
    """
    rows, length = ids.shape
    channels = int(model.config.decoder_config.num_channels)
    return {
        "input_ids": ids,
        "attention_mask": Input(shape=ids.shape, value=1, last=0 if recipe.padding else None),
        "decoder_input_ids": Input(shape=(rows, length, channels), value=_CODE),
        "decoder_attention_mask": Input(shape=(rows, length), value=1, last=0 if recipe.padding else None),
        "labels": Input(shape=(rows * channels, length), value=_CODE),
    }


@register("KyutaiSpeechToTextForConditionalGeneration", main=("input_ids",))
def _make_heard_text(model: Any, _recipe: Recipe, ids: Input) -> Inputs:
    """Make a token of text and the codes of what is heard for each position, and the tokens of text that follow."""
    shape = (*ids.shape, 1 + int(model.config.num_codebooks))
    return {"input_ids": Input(shape=shape, value=_CODE), "labels": Input(shape=ids.shape, value=_CODE)}


@register("CsmForConditionalGeneration", main=("input_ids",))
def _make_spoken_text(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make text, the sound of how it is said, which the codec in the model makes codes of, and its end.

    As CsmProcessor returns them with `output_labels`: each frame counts for the backbone and for the depth decoder.
    """
    config, (rows, length) = model.config, ids.shape
    rate, frames_per_second = config.codec_config.sampling_rate, config.codec_config.frame_rate
    wanted = round((recipe.audio_seconds or ASSUMED_SECONDS) * frames_per_second)
    frames = max(min(wanted, length - 2), 1)
    samples = round(frames * rate / frames_per_second)
    write = functools.partial(_write_frames, ids.shape, frames, config.audio_token_id, config.audio_eos_token_id)
    return {
        "input_ids": Input(shape=ids.shape, make=functools.partial(write, ids.value)),
        "attention_mask": Input(shape=ids.shape, value=1),
        "input_values": Input(shape=(rows, 1, samples), dtype=torch.float32),
        "input_values_cutoffs": Input(shape=(rows, 1), value=samples),
        "labels": Input(shape=ids.shape, make=functools.partial(write, _IGNORED)),
    }


@register("MoshiForConditionalGeneration", main=("input_ids",))
def _make_dialogue(model: Any, _recipe: Recipe, ids: Input) -> Inputs:
    """Make what is said as text and as codes by both who speak, and what the model learns to say."""
    rows, length = ids.shape
    codes = Input(shape=(rows, int(model.config.num_codebooks), length), value=_CODE)
    text = {"input_ids": ids, "text_labels": ids}
    return {**text, "user_audio_codes": codes, "moshi_audio_codes": codes, "audio_labels": codes}


@register("HiggsAudioV2ForConditionalGeneration", main=("input_ids",))
def _make_spoken_rows(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make rows of text and placeholders of the codes that follow it, as HiggsAudioV2Processor returns them."""
    config = model.config
    (rows, length), half = ids.shape, ids.shape[1] // 2
    shape = (rows, length - half, int(config.num_codebooks))
    codes = Input(shape=shape, value=_CODE)
    tokens = functools.partial(_write_halves, ids.shape, ids.value, config.audio_token_id)
    labels = {}
    if getattr(model, "text_lm_head", None) is not None:
        labels["labels"] = Input(shape=ids.shape, make=functools.partial(_write_halves, ids.shape, ids.value, _IGNORED))
    return {
        "input_ids": Input(shape=ids.shape, make=tokens),
        **make_mask(recipe, ids),
        "audio_input_ids": codes,
        "audio_input_ids_mask": Input(shape=shape[:2], dtype=torch.bool, value=1),
        **labels,
        "audio_labels": codes,
    }


@register("PocketTTSForConditionalGeneration", "GradiumPhononTTSForConditionalGeneration", main=("input_ids",))
def _make_latents(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make rows of text and placeholders of latents, and these, as PocketTTSProcessor returns them."""
    config = model.config
    rows, length = ids.shape
    half = length // 2
    frames = (rows, length - half - 1)
    tokens = functools.partial(
        _write_speech, ids.shape, ids.value, (config.audio_bos_token_id, config.audio_latent_token_id)
    )
    return {
        "input_ids": Input(shape=ids.shape, make=tokens),
        "attention_mask": Input(shape=ids.shape, value=1),
        "labels": Input(shape=(*frames, config.latent_dim), dtype=torch.float32),
        "labels_mask": Input(shape=frames, value=1),
    }


@register("Qwen3OmniMoeTalkerCodePredictorModelForConditionalGeneration", main=("input_ids",))
def _make_predicted_codes(model: Any, _recipe: Recipe, ids: Input) -> Inputs:
    """Make the state of a talker and what it has said of a frame: one code is predicted of those before."""
    config = model.config
    length = int(config.num_code_groups)
    embedded = Input(shape=(ids.shape[0], length, config.hidden_size), dtype=torch.float32)
    return {"inputs_embeds": embedded, "labels": Input(shape=(ids.shape[0], length), value=_CODE)}


def _shifts_by(model: Any) -> bool:
    """Tell whether a model of music makes the inputs of its decoder with a token that its configuration names."""
    return type(model).__name__ == "MusicgenForConditionalGeneration"


def _write_frames(shape: tuple[int, ...], frames: int, token: int, end: int, text: int) -> Tensor:
    """Return rows of text that end with the placeholders of frames and what ends these."""
    rows = torch.full(shape, text, dtype=torch.int64)
    rows[:, -frames - 1 : -1] = token
    rows[:, -1] = end
    return rows


def _write_halves(shape: tuple[int, ...], text: int, rest: int) -> Tensor:
    """Return rows of one number in their first half and another in the second."""
    rows = torch.full(shape, text, dtype=torch.int64)
    rows[:, shape[1] // 2 :] = rest
    return rows


def _write_speech(shape: tuple[int, ...], text: int, tokens: tuple[int, int]) -> Tensor:
    """Return rows of text, a token that begins speech and placeholders of its frames."""
    rows = _write_halves(shape, text, tokens[1])
    rows[:, shape[1] // 2] = tokens[0]
    return rows
