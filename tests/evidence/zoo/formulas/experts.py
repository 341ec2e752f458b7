"""Decoders with routed experts."""

from __future__ import annotations

from .dense import Dense, dense_attention, embeddings
from .parts import Config, gated_mlp, linear

__all__ = ["all_layers_routed", "deepseek", "glm4_moe", "gpt_oss", "latent_attention", "routed_experts"]


def routed_experts(hidden: int, inner: int, experts: int, shared: int = 0) -> int:
    """Return a router without bias, the experts, and the shared expert (`shared` is its width)."""
    return hidden * experts + experts * gated_mlp(hidden, inner) + gated_mlp(hidden, shared)


def all_layers_routed(config: Config, spec: Dense, experts: int, inner: int) -> int:
    """Return the count of a decoder in which every MLP is a mixture of experts."""
    hidden = int(config["hidden_size"])
    layer = dense_attention(config, spec) + routed_experts(hidden, inner, experts) + 2 * hidden
    return embeddings(config, spec) + int(config["num_hidden_layers"]) * layer + hidden


def glm4_moe(config: Config) -> int:
    """Return GLM-4.5: the first layers are dense, the others have routed and shared experts."""
    hidden, spec = int(config["hidden_size"]), Dense(qkv_bias=True, head_norms=bool(config["use_qk_norm"]))
    return embeddings(config, spec) + _partly_routed(config, dense_attention(config, spec)) + hidden


def deepseek(config: Config) -> int:
    """Return DeepSeek-V2/V3: latent attention, then as GLM-4.5 (arXiv:2405.04434, section 2.1)."""
    hidden = int(config["hidden_size"])
    return embeddings(config, Dense()) + _partly_routed(config, latent_attention(config)) + hidden


def latent_attention(config: Config) -> int:
    """Return the low-rank query and key-value projections of one layer with their norms, and the output projection."""
    hidden, heads, rank = config["hidden_size"], config["num_attention_heads"], config["q_lora_rank"]
    query_head = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    queries = hidden * heads * query_head if rank is None else hidden * rank + rank + rank * heads * query_head
    latent = config["kv_lora_rank"]
    keys = hidden * (latent + config["qk_rope_head_dim"]) + latent
    keys += latent * heads * (config["qk_nope_head_dim"] + config["v_head_dim"])
    return int(queries + keys + heads * config["v_head_dim"] * hidden)


def _partly_routed(config: Config, attention: int) -> int:
    """Return all layers when the first `first_k_dense_replace` are dense and the others mixtures of experts."""
    hidden, inner, dense = config["hidden_size"], config["moe_intermediate_size"], config["first_k_dense_replace"]
    routed = routed_experts(hidden, inner, config["n_routed_experts"], config["n_shared_experts"] * inner)
    layers = config["num_hidden_layers"]
    mlps = dense * gated_mlp(hidden, config["intermediate_size"]) + (layers - dense) * routed
    return int(layers * (attention + 2 * hidden) + mlps)


def gpt_oss(config: Config) -> int:
    """Return gpt-oss: biases everywhere and one attention sink a head."""
    hidden, inner, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    spec = Dense(qkv_bias=True, output_bias=True)
    expert = linear(hidden, 2 * inner, bias=True) + linear(inner, hidden, bias=True)
    layer = dense_attention(config, spec) + config["num_attention_heads"] + 2 * hidden
    layer += linear(hidden, experts, bias=True) + experts * expert
    return int(embeddings(config, spec) + config["num_hidden_layers"] * layer + hidden)
