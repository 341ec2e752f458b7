"""Tasks of sound: samples or spectrograms, and what is said or heard in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from inspector.compat.transformers import find_frame_count
from inspector.records.recipe import Recipe
from inspector.records.steps.media import ASSUMED_SECONDS
from inspector.workloads.inputs import BatchError, Input, Inputs
from inspector.workloads.tasks.registry import list_arguments, register

__all__ = ["make_sound"]

# Letters of a second of speech: LibriSpeech has some 14.
_LETTERS_PER_SECOND = 14
_SAMPLES_PER_SECOND = 16_000
# Parts of words of a second of speech: some 2.5 words, and 1.5 parts a word.
_PARTS_PER_SECOND = 4
# Frames of a second in a spectrogram (hop of 10 ms).
_FRAMES_PER_SECOND = 100
_SOUND = ("input_values", "input_features")
# Parts of a configuration that may describe the encoder of sound, and how they call the bins of a spectrogram.
_ENCODERS = ("encoder_config", "audio_config", "encoder", "audio_encoder")
# Extractors that put changes beside bins and join frames: features of a bin, and frames of a position
# (granite_speech5/feature_extraction_granite_speech5.py, `delta_expansion` and `frame_stacking`).
_STACKING = {"granite_speech5_ctc": (4, 2)}
_BINS = ("num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel", "feature_size", "feature_dim")


@register("ForCTC", main=_SOUND)
def _make_transcripts(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make speech and the letters of its transcript, none of which is the blank."""
    sound = make_sound(model, recipe)
    return {**sound, "labels": Input(shape=(recipe.batch_size, _count_letters(recipe)), value=ids.value or 1)}


@register("ForSequenceClassification", "ForAudioClassification", "ForXVector", main=_SOUND)
def _make_sound_labels(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make sound and a class of each."""
    return {**make_sound(model, recipe), "labels": Input(shape=(recipe.batch_size,))}


@register("ForAudioFrameClassification", main=_SOUND)
def _make_frame_labels(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make sound, and for each frame that the encoder leaves of it which speakers are heard."""
    sound = make_sound(model, recipe)
    main = sound[model.main_input_name]
    frames = _count_frames(model, main.shape[1])
    return {**sound, "labels": Input(shape=(recipe.batch_size, frames, model.config.num_labels))}


@register("ForPreTraining", main=("input_values",))
def _make_masked_frames(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make speech, which of its frames are masked, and the frames that each is told apart from.

    As the collator of transformers' examples/pytorch/speech-pretraining makes them.
    """
    if "sampled_negative_indices" not in list_arguments(model):
        raise BatchError(f"{type(model).__name__} has no loss in transformers")
    sound = make_sound(model, recipe)
    rows, frames = recipe.batch_size, _count_frames(model, sound["input_values"].shape[1])
    negatives = (rows, frames, model.config.num_negatives)
    return {
        **sound,
        "mask_time_indices": Input(shape=(rows, frames), dtype=torch.bool, value=1),
        "sampled_negative_indices": Input(shape=negatives),
    }


@register("ForTDT", "ForRNNT", main=_SOUND)
def _make_transduced(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make speech, the parts of words of its transcript, and the same behind a blank, which are predicted from.

    As ParakeetProcessor returns them: a lattice of frames and parts of words is as large as speech has of both.
    """
    rows, length = ids.shape
    length = max(min(length, round(_find_seconds(recipe) * _PARTS_PER_SECOND)), 1)
    return {
        **make_sound(model, recipe),
        "labels": Input(shape=(rows, length), value=ids.value),
        "decoder_input_ids": Input(shape=(rows, length + 1), value=ids.value),
    }


@register("ForConditionalGeneration", "ForSpeechToText", main=_SOUND)
def _make_speech_to_text(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make speech, and the tokens of its transcript."""
    return {**make_sound(model, recipe), "labels": ids}


@register("VoxtralRealtimeForConditionalGeneration", main=("input_ids",))
def _make_streamed_speech(model: Any, _recipe: Recipe, ids: Input) -> Inputs:
    """Make a token of text for each step of a stream, and the frames of its sound that are heard until then."""
    config = model.config
    shape = (ids.shape[0], config.audio_config.num_mel_bins, ids.shape[1] * config.audio_length_per_tok)
    return {"input_ids": ids, "input_features": Input(shape=shape, dtype=torch.float32), "labels": ids}


@register("SpeechEncoderDecoderModel", main=("inputs",))
def _make_inputs_to_text(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make speech as the feature extractor of the encoder returns it, and the tokens of its transcript."""
    samples = round(_find_seconds(recipe) * _SAMPLES_PER_SECOND)
    return {"input_values": Input(shape=(recipe.batch_size, samples), dtype=torch.float32), "labels": ids}


@register("ForSpeechToSpeech", main=("input_values",))
def _make_speech_to_speech(model: Any, recipe: Recipe, _ids: Input) -> Inputs:
    """Make speech, the spectrogram of what another speaker says, and that speaker."""
    return {**make_sound(model, recipe), **_make_spectrogram(model, recipe)}


@register("ForTextToSpeech", main=("input_ids",))
def _make_text_to_speech(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make text, the spectrogram of what is said, and the speaker."""
    if "stop_labels" not in list_arguments(model):  # its codes are tokens
        return {"input_ids": ids, "labels": ids}
    positions = getattr(model.config, "max_text_positions", ids.shape[1])
    ids = dataclasses.replace(ids, shape=(ids.shape[0], min(ids.shape[1], positions)))
    return {"input_ids": ids, "attention_mask": Input(shape=ids.shape, value=1), **_make_spectrogram(model, recipe)}


@register("ForSpeechToSpeech", main=("input_features",))
def _make_speech_to_codes(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make speech, and the tokens of what is said in another language."""
    return {**make_sound(model, recipe), "labels": ids}


@register("FastSpeech2ConformerModel", "FastSpeech2ConformerWithHifiGan", main=("input_ids",))
def _make_durations(model: Any, recipe: Recipe, ids: Input) -> Inputs:
    """Make phonemes, a frame each, and the pitch, the energy and the spectrogram of what is said."""
    config = getattr(model.config, "model_config", model.config)
    rows, length = ids.shape
    of_tokens = Input(shape=(rows, length, 1), dtype=torch.float32)
    return {
        "input_ids": ids,
        "attention_mask": Input(shape=ids.shape, value=1),
        "spectrogram_labels": Input(shape=(rows, length, config.num_mel_bins), dtype=torch.float32, is_read=True),
        "duration_labels": Input(shape=(rows, length), value=1),
        "pitch_labels": of_tokens,
        "energy_labels": of_tokens,
    }


def _make_spectrogram(model: Any, recipe: Recipe) -> dict[str, Input]:
    """Return the spectrogram to say, as a target and shifted by the class itself, and a vector of its speaker."""
    config, rows = model.config, recipe.batch_size
    frames = round(_find_seconds(recipe) * _FRAMES_PER_SECOND) // 2  # a hop of 16 ms, and an even number
    frames -= frames % config.reduction_factor
    return {
        "labels": Input(shape=(rows, frames, config.num_mel_bins), dtype=torch.float32, is_read=True),
        "speaker_embeddings": Input(shape=(rows, config.speaker_embedding_dim), dtype=torch.float32),
    }


def _find_seconds(recipe: Recipe) -> float:
    """Return how long the sound of a row is."""
    return recipe.audio_seconds or ASSUMED_SECONDS


def _count_letters(recipe: Recipe) -> int:
    return max(round(_find_seconds(recipe) * _LETTERS_PER_SECOND), 1)


def _list_configs(config: Any) -> Iterator[Any]:
    """Yield a configuration, and those of its encoders of sound."""
    yield config
    for name in _ENCODERS:
        part = getattr(config, name, None)
        if part is not None and hasattr(part, "to_dict"):
            yield part


def make_sound(model: Any, recipe: Recipe) -> dict[str, Input]:
    """Return samples, or a spectrogram of as many bins and frames as the configuration says."""
    config, rows = model.config, recipe.batch_size
    # SpeechT5 has bins of what it says, and takes samples.
    is_encoded = any(hasattr(config, name) for name in ("conv_dim", "num_feat_extract_layers"))
    if model.main_input_name == "input_values" and (is_encoded or not hasattr(config, "num_mel_bins")):
        samples = round(_find_seconds(recipe) * _SAMPLES_PER_SECOND)
        return {"input_values": Input(shape=(rows, samples), dtype=torch.float32)}
    found = ((part, getattr(part, name, None)) for part in _list_configs(config) for name in _BINS)
    part, bins = next(((part, value) for part, value in found if isinstance(value, int)), (config, None))
    if bins is None:
        raise BatchError(f"how the features of {type(model).__name__} look is not known here")
    positions = getattr(part, "max_source_positions", None)
    if isinstance(positions, int) and hasattr(part, "d_model") and not hasattr(part, "input_channels"):
        # whisper: bins first, a window of 30 seconds
        return {"input_features": Input(shape=(rows, bins, 2 * positions), dtype=torch.float32)}
    bins *= getattr(part, "input_channels", 1) if hasattr(part, "input_feat_per_channel") else 1
    fixed = getattr(part, "max_length", None)
    frames = fixed if isinstance(fixed, int) and fixed > 1 else round(_find_seconds(recipe) * _FRAMES_PER_SECOND)
    of_bin, joined = _STACKING.get(config.model_type, (1, 1))
    bins, frames = bins * of_bin, -(-frames // joined)
    made = {model.main_input_name: Input(shape=(rows, frames, bins), dtype=torch.float32)}
    if model.main_input_name == "input_features" and "attention_mask" in list_arguments(model):
        made["attention_mask"] = Input(shape=(rows, frames), value=1)  # which extractors of such features return
    return made


def _count_frames(model: Any, samples: int) -> int:
    """Return how many frames the encoder leaves of a row."""
    lengths = torch.tensor([samples])
    count = find_frame_count(model)
    if count is None:
        raise BatchError(f"how many frames {type(model).__name__} makes of sound is not known here")
    if model.main_input_name == "input_features":  # an adapter is optional, and what convolves is inside of it
        return samples if not getattr(model.config, "add_adapter", False) else int(count(lengths))
    found: Tensor = count(lengths)
    return int(found)
