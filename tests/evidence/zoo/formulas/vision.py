"""Models that see: image classifiers, pairs of towers, and language models behind a tower."""

from __future__ import annotations

from .dense import DENSE, Dense, dense_attention, dense_decoder, embeddings
from .experts import routed_experts
from .parts import Config, layer_norm, linear, transformer_layer

__all__ = ["clip", "gemma3", "llama4", "llava", "qwen2_5_vl", "vit"]


def vision_tower(config: Config, *, class_token: bool, patch_bias: bool, norms: int) -> int:
    """Return a vision transformer: patches, positions, layers, and `norms` norms around the layers."""
    hidden, patch = config["hidden_size"], config["patch_size"]
    positions = (config["image_size"] // patch) ** 2 + class_token
    patches = linear(config.get("num_channels", 3) * patch**2, hidden, bias=patch_bias)
    layers = config["num_hidden_layers"] * transformer_layer(hidden, config["intermediate_size"])
    return int(patches + (positions + class_token) * hidden + layers + norms * layer_norm(hidden))


def vit(config: Config) -> int:
    """Return ViT with a classifier."""
    tower = vision_tower(config, class_token=True, patch_bias=True, norms=1)
    return tower + linear(config["hidden_size"], config["num_labels"], bias=True)


def clip(config: Config) -> int:
    """Return CLIP: two towers, two projections without bias and the temperature."""
    text, vision, shared = config["text_config"], config["vision_config"], config["projection_dim"]
    hidden = text["hidden_size"]
    count = (text["vocab_size"] + text["max_position_embeddings"]) * hidden + layer_norm(hidden)
    count += text["num_hidden_layers"] * transformer_layer(hidden, text["intermediate_size"])
    count += vision_tower(vision, class_token=True, patch_bias=False, norms=2)
    return int(count + (hidden + vision["hidden_size"]) * shared + 1)


def llava(config: Config) -> int:
    """Return LLaVA-1.5: CLIP's vision tower, a projector of two layers and a Llama."""
    text, vision = config["text_config"], config["vision_config"]
    text_hidden = text.get("hidden_size", 4096)
    projector = linear(vision["hidden_size"], text_hidden, bias=True) + linear(text_hidden, text_hidden, bias=True)
    tower = vision_tower(vision, class_token=True, patch_bias=False, norms=2)
    return dense_decoder({"tie_word_embeddings": False, **text}, DENSE["llama"]) + projector + tower


def gemma3(config: Config) -> int:
    """Return Gemma 3 with SigLIP's tower, whose projector is one matrix and a norm."""
    text, vision = {"vocab_size": 262208, **config["text_config"]}, config["vision_config"]  # the 27B leaves it out
    projector = vision["hidden_size"] * text["hidden_size"] + vision["hidden_size"]
    tower = vision_tower(vision, class_token=False, patch_bias=True, norms=1)
    return int(dense_decoder(text, DENSE["gemma3_text"]) + projector + tower)


def qwen2_5_vl(config: Config) -> int:
    """Return Qwen2.5-VL: RMS norms and gated MLPs with biases in the tower, rotary positions, a merger of patches."""
    vision = config["vision_config"]
    hidden, inner = vision["hidden_size"], vision["intermediate_size"]
    merged = hidden * vision["spatial_merge_size"] ** 2
    patches = vision["in_chans"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2 * hidden
    mlp = 2 * linear(hidden, inner, bias=True) + linear(inner, hidden, bias=True)
    block = 4 * linear(hidden, hidden, bias=True) + mlp + 2 * hidden
    merger = hidden + linear(merged, merged, bias=True) + linear(merged, vision["out_hidden_size"], bias=True)
    return int(dense_decoder(config, DENSE["qwen2"]) + patches + vision["depth"] * block + merger)


def llama4(config: Config) -> int:
    """Return Llama 4 Scout: experts in every layer beside a shared one, and a vision tower behind a pixel shuffle."""
    text, vision = config["text_config"], config["vision_config"]
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    layer = (
        dense_attention(text, Dense()) + routed_experts(hidden, inner, text["num_local_experts"], inner) + 2 * hidden
    )
    decoder = embeddings(text, Dense()) + text["num_hidden_layers"] * layer + hidden
    shuffled = round(vision["hidden_size"] / vision["pixel_shuffle_ratio"] ** 2)
    adapter = shuffled * vision["projector_input_dim"] + vision["projector_output_dim"] ** 2
    tower = vision_tower(vision, class_token=True, patch_bias=False, norms=2)
    return int(decoder + tower + adapter + vision["vision_output_dim"] * hidden)
