"""Sound as a model's feature extractor makes it, and how many tokens it takes: a registry by the type of the model.

All sound of a batch is equally long. Features are float32, as extractors return them. Not covered: other models of
sound and text, which are traced with text alone, and the report says so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inspector.workloads.inputs import Input
from inspector.workloads.media.registry import register_in

__all__ = ["Sound", "make_sound"]

# Frames of a second (feature_extraction_whisper.py: 16,000 samples, 160 a frame).
_FRAMES_PER_SECOND = 100
_SAMPLES_PER_SECOND = 16_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """What an extractor makes of the sound of a batch: tensors, and the placeholders of a row."""

    inputs: Mapping[str, Input]
    tokens: int


_Maker = Callable[[Any, Mapping[str, Any], int, float], Sound]
_MAKERS: dict[str, _Maker] = {}


def make_sound(
    model: Any, settings: Mapping[str, Any], arguments: set[str], *, rows: int, seconds: float
) -> Sound | None:
    """Return the sound of `rows` rows, None where it is not known what the model's extractor makes of it."""
    maker = _MAKERS.get(model.config.model_type)
    return None if maker is None or "input_features" not in arguments else maker(model.config, settings, rows, seconds)


@register_in(_MAKERS, "qwen2_audio")
def _make_masked_window(config: Any, _settings: Mapping[str, Any], rows: int, seconds: float) -> Sound:
    """Make spectrograms of 30 seconds with a mask of what is sound (qwen2_audio/processing_qwen2_audio.py)."""
    audio = config.audio_config
    window = 2 * int(audio.max_source_positions)
    frames = min(max(round(seconds * _FRAMES_PER_SECOND), 4), window)
    # Two convolutions and a pooling layer halve them (modeling_qwen2_audio.py, `_get_feat_extract_output_lengths`).
    tokens = ((frames - 1) // 2 + 1 - 2) // 2 + 1
    mask = functools.partial(_mark_first, (rows, window), frames)
    return Sound(
        inputs={
            "input_features": Input(shape=(rows, audio.num_mel_bins, window), dtype=torch.float32),
            "feature_attention_mask": Input(shape=(rows, window), dtype=torch.int32, make=mask),
        },
        tokens=tokens,
    )


@register_in(_MAKERS, "voxtral")
def _make_windows(config: Any, _settings: Mapping[str, Any], rows: int, seconds: float) -> Sound:
    """Make as many windows of 30 seconds as the sound fills (voxtral/processing_voxtral.py)."""
    audio = config.audio_config
    window = 2 * int(audio.max_source_positions)
    windows = max(math.ceil(seconds * _FRAMES_PER_SECOND / window), 1)
    # The projector takes as many positions as the inner size holds hidden sizes (`get_audio_features`).
    tokens = windows * audio.max_source_positions * audio.hidden_size // audio.intermediate_size
    shape = (rows * windows, audio.num_mel_bins, window)
    return Sound(inputs={"input_features": Input(shape=shape, dtype=torch.float32)}, tokens=tokens)


@register_in(_MAKERS, "audioflamingo3", "glmasr")
def _make_masked_windows(config: Any, _settings: Mapping[str, Any], rows: int, seconds: float) -> Sound:
    """Make windows of 30 seconds with a mask of what is sound (audioflamingo3, glmasr: `_get_audio_token_length`)."""
    window = 30 * _FRAMES_PER_SECOND
    frames = max(round(seconds * _FRAMES_PER_SECOND), 8)
    windows = math.ceil(frames / window)
    halved = (frames - 1) // 2 + 1
    tokens = halved // 4 if config.model_type == "glmasr" else (halved - 2) // 2 + 1
    mask = functools.partial(_mark_windows, rows, windows, window, frames)
    shape = (rows * windows, config.audio_config.num_mel_bins, window)
    return Sound(
        inputs={
            "input_features": Input(shape=shape, dtype=torch.float32),
            "input_features_mask": Input(shape=(rows * windows, window), dtype=torch.int32, make=mask),
        },
        tokens=tokens,
    )


@register_in(_MAKERS, "qwen3_asr")
def _make_chunks(config: Any, settings: Mapping[str, Any], rows: int, seconds: float) -> Sound:
    """Make whole chunks of a second with a mask of what is sound (qwen3_asr/processing_qwen3_asr.py)."""
    chunk = 2 * _setting(settings, "n_window", 50)
    frames = max(round(seconds * _FRAMES_PER_SECOND), chunk // 2)
    length = math.ceil(frames / chunk) * chunk
    rest = frames % chunk
    for _convolution in range(3):
        rest = (rest - 1) // 2 + 1
    mask = functools.partial(_mark_first, (rows, length), frames)
    return Sound(
        inputs={
            "input_features": Input(shape=(rows, config.audio_config.num_mel_bins, length), dtype=torch.float32),
            "input_features_mask": Input(shape=(rows, length), dtype=torch.int32, make=mask),
        },
        tokens=rest + frames // chunk * 13,
    )


@register_in(_MAKERS, "granite_speech", "granite_speech_plus")
def _make_stacked(config: Any, settings: Mapping[str, Any], rows: int, seconds: float) -> Sound:
    """Make stacked frames with a mask of features (granite_speech/feature_extraction_granite_speech.py)."""
    hop = _setting(settings, "hop_length", 160)
    frames = max(round(seconds * _SAMPLES_PER_SECOND), hop) // hop + 1
    length = frames // 2
    window, rate = int(config.window_size), int(config.downsample_rate)
    tokens = math.ceil(length / window) * (window // rate)
    return Sound(
        inputs={
            "input_features": Input(shape=(rows, length, config.encoder_config.input_dim), dtype=torch.float32),
            "input_features_mask": Input(shape=(rows, tokens), dtype=torch.bool, value=1),
        },
        tokens=tokens,
    )


def _setting(settings: Mapping[str, Any], name: str, default: int) -> int:
    """Return a number of the extractor's settings."""
    value = settings.get(name)
    return value if isinstance(value, int) and value > 0 else default


def _mark_windows(rows: int, windows: int, window: int, frames: int) -> Tensor:
    """Return ones for the first frames of each row, which is cut into windows."""
    return _mark_first((rows, windows * window), frames).view(rows * windows, window)


def _mark_first(shape: tuple[int, int], count: int) -> Tensor:
    """Return ones for the first `count` of each row, zeros for the rest."""
    marked = torch.zeros(shape, dtype=torch.int32)
    marked[:, :count] = 1
    return marked
