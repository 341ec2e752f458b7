"""How long captions are where the configuration of no text encoder says it: what the training script of a class takes.

Maxima of diffusers' examples/dreambooth/train_dreambooth_lora_sd3.py (77 tokens of CLIP before 77 of T5) and
train_dreambooth_lora_flux.py, and of the pipelines of PixArt.
"""

from __future__ import annotations

from collections.abc import Mapping

from inspector.records.diffusion import StoredPipeline

__all__ = ["find_text_length"]

# CLIP's, where the pipeline has no text encoder.
_CLIP = 77
_MOST = 4096
_OF_CLASSES: Mapping[str, int] = {
    "SD3Transformer2DModel": 77 + 77,
    "FluxTransformer2DModel": 512,
    "PixArtTransformer2DModel": 120,
}
_OF_PIPELINES: Mapping[str, int] = {"PixArtSigmaPipeline": 300}


def find_text_length(pipeline: StoredPipeline) -> int:
    """Return the tokens of a caption that a pipeline's denoiser is trained with."""
    name = pipeline.denoiser.class_name
    if name in _OF_CLASSES:
        return _OF_PIPELINES.get(pipeline.class_name, _OF_CLASSES[name])
    encoder = next((item.config for item in pipeline.components if item.name == "text_encoder"), {})
    length = encoder.get("max_position_embeddings")
    return length if isinstance(length, int) and 0 < length <= _MOST else _CLIP
