"""The kinds of models beside text that a GPU is held to: sound, images, boxes, series, scans, pairs, pages.

They are rows of the matrix (`matrix.py`). A configuration is that of its type but for how many layers it has, and for
what makes it large.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.evidence.truth.matrix_row import MatrixRow

__all__ = ["KIND_ROWS"]

# Sizes of a base model; other fields have their type's defaults.
_BASE: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 2,
}
_TEXT: Mapping[str, Any] = {**_BASE, "vocab_size": 8000}
_STEP = "--optimizer adamw_torch --no-gradient-checkpointing"
# No row is padded, and all that a distribution asks of its parameters holds.
_HOLDS: Mapping[str, str] = {"FAKE_BOOL": "1"}


def _row(
    name: str, kind: str, model_type: str, fields: Mapping[str, Any], options: str = "", nonzero: str = "", **said: str
) -> MatrixRow:
    """Return a row; `nonzero` says of how many elements of a mask how many hold."""
    whole = {"architectures": [kind], "model_type": model_type, **fields}
    answers = {**_HOLDS, **({"FAKE_NONZERO": nonzero} if nonzero else {}), **said}
    asked = f"{options} {_STEP}".strip()
    return MatrixRow(name=f"kind-{name}", model=kind, options=asked, fields=whole, answers=answers)


_SPEECH: Mapping[str, Any] = {**_BASE, "vocab_size": 32, "layerdrop": 0.0}
_BART: Mapping[str, Any] = {
    **{
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in (("layers", 2), ("attention_heads", 8), ("ffn_dim", 2048))
    },
    "d_model": 512,
    "vocab_size": 4000,
}

_STAGES: Mapping[str, Any] = {
    "num_encoder_blocks": 4,
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 5, 8],
    "hidden_sizes": [32, 64, 160, 256],
}
_SERIES: Mapping[str, Any] = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "prediction_length": 24,
    "distribution_output": "normal",
}
_LLAMA: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_hidden_layers": 2,
    "vocab_size": 4000,
}
_TOWER: Mapping[str, Any] = {**_BASE, "image_size": 224, "patch_size": 32}

KIND_ROWS = (
    # Sound.
    _row("ctc", "Wav2Vec2ForCTC", "wav2vec2", _SPEECH, "--audio-seconds 4 --batch-size 2", "398:40", FAKE_BOOL="0"),
    _row("sound-class", "HubertForSequenceClassification", "hubert", _SPEECH, "--audio-seconds 4", "199:20"),
    _row("x-vector", "WavLMForXVector", "wavlm", _SPEECH, "--audio-seconds 4", "199:20"),
    _row("sound-frames", "Wav2Vec2ForAudioFrameClassification", "wav2vec2", _SPEECH, "--audio-seconds 4", "199:20"),
    _row("spectrogram", "ASTForAudioClassification", "audio-spectrogram-transformer", _BASE),
    _row(
        "speech-out",
        "SpeechT5ForTextToSpeech",
        "speecht5",
        {
            "hidden_size": 512,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 8,
            "encoder_ffn_dim": 1024,
            "encoder_layerdrop": 0.0,
            "decoder_layerdrop": 0.0,
            "decoder_ffn_dim": 1024,
            "vocab_size": 81,
        },
        "--audio-seconds 2 --seq-len 64",
    ),
    # Images.
    _row("objects", "YolosForObjectDetection", "yolos", {**_BASE, "image_size": [192, 192]}),
    _row("depth", "GLPNForDepthEstimation", "glpn", _STAGES, "--image-size 128x128"),
    _row("segments", "SegformerForSemanticSegmentation", "segformer", _STAGES, "--image-size 128x128 --batch-size 2"),
    _row("masked-image", "ViTForMaskedImageModeling", "vit", {**_BASE, "encoder_stride": 16}, "--batch-size 2"),
    _row("videos", "VideoMAEForVideoClassification", "videomae", {**_BASE, "image_size": 112}),
    _row(
        "convolutions",
        "ConvNextForImageClassification",
        "convnext",
        {"depths": [1, 1, 2, 1], "hidden_sizes": [96, 192, 384, 768], "num_stages": 4},
        "--batch-size 4",
    ),
    _row(
        "residual",
        "ResNetForImageClassification",
        "resnet",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [256, 512, 1024, 2048]},
        "--batch-size 4",
    ),
    _row(
        "windows",
        "SwinForImageClassification",
        "swin",
        {"depths": [2, 2], "num_heads": [3, 6], "embed_dim": 96},
        "--batch-size 2",
    ),
    # Series.
    _row("series", "TimeSeriesTransformerForPrediction", "time_series_transformer", _SERIES, "--batch-size 8"),
    _row(
        "patched-series",
        "PatchTSTForPrediction",
        "patchtst",
        {"d_model": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 256},
        "--batch-size 8",
    ),
    # Text and images or sound.
    _row(
        "image-in-text",
        "LlavaForConditionalGeneration",
        "llava",
        {
            "text_config": _LLAMA,
            "vision_config": {**_TOWER, "model_type": "clip_vision_model", "projection_dim": 512},
            "image_token_index": 3999,
            "vision_feature_layer": -2,
        },
        "--seq-len 128 --images 1",
        "65536:25088",
    ),
    _row(
        "image-patches",
        "PaliGemmaForConditionalGeneration",
        "paligemma",
        {
            "text_config": {**_LLAMA, "model_type": "gemma", "head_dim": 64},
            "vision_config": {**_TOWER, "model_type": "siglip_vision_model", "projection_dim": 512},
            "image_token_index": 3999,
            "projection_dim": 512,
            "hidden_size": 512,
            "vocab_size": 4000,
        },
        "--seq-len 128 --images 1",
        "65536:25088",
    ),
    _row(
        "image-captions",
        "VisionEncoderDecoderModel",
        "vision-encoder-decoder",
        {
            "encoder": {**_BASE, "model_type": "vit"},
            "decoder": {**_TEXT, "model_type": "bert", "is_decoder": True, "add_cross_attention": True},
            "decoder_start_token_id": 101,
            "pad_token_id": 0,
        },
        "--seq-len 64",
    ),
    _row("boxes-of-words", "LayoutLMv3ForTokenClassification", "layoutlmv3", _TEXT, "--seq-len 128 --images 1"),
    # Text otherwise than in one row.
    _row("choices", "BertForMultipleChoice", "bert", _TEXT, "--seq-len 128"),
    _row("next-sentence", "BertForNextSentencePrediction", "bert", _TEXT, "--seq-len 128"),
    _row("replaced-tokens", "ElectraForPreTraining", "electra", _TEXT, "--seq-len 128 --batch-size 2 --no-padding"),
    _row("pairs", "BertModel", "bert", _TEXT, "--seq-len 64 --batch-size 8 --no-padding"),
    # Scans, in torch code.
    _row("mamba", "MambaForCausalLM", "mamba", {**_BASE, "vocab_size": 4000}, "--kernels torch --seq-len 64"),
    _row(
        "mamba-2",
        "Mamba2ForCausalLM",
        "mamba2",
        {**_BASE, "vocab_size": 4000, "hidden_size": 512, "num_heads": 16},
        "--kernels torch --seq-len 300",
    ),
    _row(
        "rwkv",
        "RwkvForCausalLM",
        "rwkv",
        {**_BASE, "vocab_size": 4000, "hidden_size": 512},
        "--kernels torch --seq-len 32",
    ),
)
