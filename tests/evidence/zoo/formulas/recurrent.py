"""Decoders with state-space or linear-attention layers."""

from __future__ import annotations

from .dense import Dense, attention_widths, dense_attention, embeddings
from .experts import routed_experts
from .parts import Config, gated_mlp, linear

__all__ = ["jamba", "mamba", "qwen3_next"]


def mamba_mixer(hidden: int, inner: int, state: int, rank: int, kernel: int) -> int:
    """Return one Mamba mixer (arXiv:2312.00752): projections, depthwise convolution, A and D."""
    convolution = inner * kernel + inner
    selection = inner * (rank + 2 * state) + linear(rank, inner, bias=True)
    return hidden * 2 * inner + convolution + selection + inner * state + inner + inner * hidden


def mamba(config: Config) -> int:
    """Return Mamba with its embedding tied to the output projection."""
    hidden = config["hidden_size"]
    mixer = mamba_mixer(
        hidden, config["intermediate_size"], config["state_size"], config["time_step_rank"], config["conv_kernel"]
    )
    return int(config["vocab_size"] * hidden + config["num_hidden_layers"] * (mixer + hidden) + hidden)


def jamba(config: Config) -> int:
    """Return Jamba: Mamba layers with attention in between, and experts in every second layer."""
    hidden, inner, state, rank = (
        config[k] for k in ("hidden_size", "intermediate_size", "mamba_d_state", "mamba_dt_rank")
    )
    mixer = mamba_mixer(hidden, config["mamba_expand"] * hidden, state, rank, config["mamba_d_conv"])
    mixer += rank + 2 * state  # Jamba's norms on the step size, B and C
    count = embeddings(config, Dense()) + hidden
    for layer in range(config["num_hidden_layers"]):
        attends = layer % config["attn_layer_period"] == config["attn_layer_offset"]
        routed = layer % config["expert_layer_period"] == config["expert_layer_offset"]
        count += (dense_attention(config, Dense()) if attends else mixer) + 2 * hidden
        count += routed_experts(hidden, inner, config["num_experts"]) if routed else gated_mlp(hidden, inner)
    return int(count)


def qwen3_next(config: Config) -> int:
    """Return Qwen3-Next: three gated delta-net layers, then one of gated attention; experts everywhere."""
    hidden, value_heads = config["hidden_size"], config["linear_num_value_heads"]
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = value_heads * config["linear_value_head_dim"]
    delta = hidden * (2 * keys + 2 * values) + hidden * 2 * value_heads + values * hidden
    delta += (2 * keys + values) * config["linear_conv_kernel_dim"] + 2 * value_heads + config["linear_value_head_dim"]
    spec = Dense(head_norms=True)
    attention = dense_attention(config, spec) + hidden * attention_widths(config)[1]  # the gate is as wide as queries
    experts = routed_experts(
        hidden, config["moe_intermediate_size"], config["num_experts"], config["shared_expert_intermediate_size"]
    )
    layers, full = config["num_hidden_layers"], config["num_hidden_layers"] // config["full_attention_interval"]
    shared_gate = hidden
    mixers = full * attention + (layers - full) * delta
    return int(embeddings(config, spec) + mixers + layers * (experts + shared_gate + 2 * hidden) + hidden)
