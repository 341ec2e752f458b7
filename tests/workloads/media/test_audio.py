"""Sound takes as many tokens as transformers' own processors write, and is as long as they make it."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inspector.workloads.inputs import Input
from inspector.workloads.media.audio import make_sound

TYPES = {"audioflamingo3": "AudioFlamingo3", "glmasr": "GlmAsr", "qwen3_asr": "Qwen3ASR"}


def make(model_type: str, seconds: float) -> Any:
    """Return the sound of two sequences."""
    audio = SimpleNamespace(num_mel_bins=8)
    model = SimpleNamespace(config=SimpleNamespace(model_type=model_type, audio_config=audio))
    return make_sound(model, {}, {"input_features"}, rows=2, seconds=seconds)


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("seconds", [1.0, 7.77, 30.0, 30.5, 95.03])
def test_sound_takes_the_tokens_that_the_processor_writes(model_type: str, seconds: float) -> None:
    module = importlib.import_module(f"transformers.models.{model_type}.processing_{model_type}")
    processor = getattr(module, f"{TYPES[model_type]}Processor")
    made = make(model_type, seconds)
    mask = made.inputs["input_features_mask"].on("cpu")
    assert mask.sum() == 2 * round(100 * seconds)
    written = processor._get_audio_token_length(None, torch.tensor(round(100 * seconds)))
    assert made.tokens == int(written)


@pytest.mark.parametrize(
    ("model_type", "seconds", "shape"),
    [
        ("audioflamingo3", 30.0, (2, 8, 3000)),
        ("audioflamingo3", 30.5, (4, 8, 3000)),
        ("glmasr", 5.0, (2, 8, 3000)),
        ("qwen3_asr", 5.01, (2, 8, 600)),
    ],
)
def test_sound_comes_in_windows_of_30_seconds_or_in_whole_seconds(
    model_type: str, seconds: float, shape: tuple[int, ...]
) -> None:
    features = make(model_type, seconds).inputs["input_features"]
    assert isinstance(features, Input)
    assert features.shape == shape
