"""Decoders in which every token uses every parameter."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .parts import Config, gated_mlp, linear, plain_mlp

__all__ = ["DENSE", "Dense", "attention_widths", "dense_attention", "dense_decoder", "embeddings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """What tells one dense decoder from another beside its dimensions.

    `norms` is how many norms a layer has and `norm_vectors` how many vectors each holds (weight, or weight and bias);
    `head_norms` adds a norm of one head's size to queries and to keys, `wide_norms` one of their whole width.
    `tied` is what holds where the config does not say whether input and output embeddings are one.
    """

    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    lm_head_bias: bool = False
    gated: bool = True
    norms: int = 2
    norm_vectors: int = 1
    head_norms: bool = False
    wide_norms: bool = False
    embedding_norm: bool = False
    tied: bool = False
    position_offset: int | None = None


_GPT = Dense(qkv_bias=True, output_bias=True, mlp_bias=True, gated=False, norm_vectors=2)

DENSE: dict[str, Dense] = {
    "llama": Dense(),
    "mistral": Dense(),
    "granite": Dense(),
    "smollm3": Dense(tied=True),
    "phi3": Dense(),
    "qwen2": Dense(qkv_bias=True),
    "qwen3": Dense(head_norms=True),
    "gemma2": Dense(norms=4, tied=True),
    "gemma3_text": Dense(norms=4, head_norms=True, tied=True),
    "olmo2": Dense(wide_norms=True),
    "cohere2": Dense(norms=1, tied=True),
    "glm4": Dense(qkv_bias=True, norms=4),
    "stablelm": Dense(qkv_bias=True, norm_vectors=2),
    "phi": replace(_GPT, norms=1, lm_head_bias=True),
    "starcoder2": replace(_GPT, tied=True),
    "gpt_neox": _GPT,
    "gpt2": replace(_GPT, tied=True, position_offset=0),
    # OPT's position table starts two rows late, so that padding has a row.
    "opt": replace(_GPT, tied=True, position_offset=2),
    "bloom": replace(_GPT, tied=True, embedding_norm=True),
    "falcon": Dense(norms=1, norm_vectors=2, gated=False, tied=True),
}


def _first(config: Config, *names: str) -> int | None:
    """Return the first of these fields that the config sets: the same dimension has several names."""
    return next((int(config[name]) for name in names if config.get(name) is not None), None)


def attention_widths(config: Config) -> tuple[int, int, int]:
    """Return the size of a head and the widths of all query heads and of all key heads."""
    hidden = _first(config, "hidden_size", "n_embd") or 4096
    heads = _first(config, "num_attention_heads", "n_head") or 32
    keys = 1 if config.get("multi_query") else _first(config, "num_key_value_heads") or heads
    head = _first(config, "head_dim") or hidden // heads
    return head, heads * head, keys * head


def dense_attention(config: Config, spec: Dense) -> int:
    """Return the four projections of one layer, and the norms on queries and keys."""
    hidden = _first(config, "hidden_size", "n_embd") or 4096
    head, queries, keys = attention_widths(config)
    count = linear(hidden, queries + 2 * keys, bias=spec.qkv_bias) + linear(queries, hidden, bias=spec.output_bias)
    return count + 2 * head * spec.head_norms + (queries + keys) * spec.wide_norms


def embeddings(config: Config, spec: Dense) -> int:
    """Return the token embedding, and the output projection where it is a parameter of its own."""
    table = int(config["vocab_size"]) * (_first(config, "hidden_size", "n_embd") or 4096)
    return table if config.get("tie_word_embeddings", spec.tied) else 2 * table


def dense_decoder(config: Config, spec: Dense) -> int:
    """Return embeddings + layers × (attention + MLP + norms) + final norm."""
    hidden = _first(config, "hidden_size", "n_embd") or 4096
    # Llama's own default where LLaVA's text config leaves it out; the GPT kinds are four times as wide.
    inner = _first(config, "intermediate_size", "ffn_dim") or (11008 if spec.gated else 4 * hidden)
    layers = _first(config, "num_hidden_layers", "n_layer") or 32
    mlp = gated_mlp(hidden, inner) if spec.gated else plain_mlp(hidden, inner, bias=spec.mlp_bias)
    norm = spec.norm_vectors * hidden
    count = embeddings(config, spec) + layers * (dense_attention(config, spec) + mlp + spec.norms * norm) + norm
    if spec.position_offset is not None:
        positions = _first(config, "n_positions", "max_position_embeddings") or 0
        count += (positions + spec.position_offset) * hidden
    return count + norm * spec.embedding_norm + int(config["vocab_size"]) * spec.lm_head_bias
