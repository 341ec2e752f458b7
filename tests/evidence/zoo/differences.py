"""Published minus own: what a checkpoint holds beyond the model's parameters, spelled out from the dimensions.

Every published count that differs from the model's own has its arithmetic here. One number could be matched but not
identified (Kimi-K2); it stands apart so that nobody takes it for an explanation.
"""

from __future__ import annotations

from math import ceil

from .formulas.experts import latent_attention, routed_experts
from .formulas.parts import Config

__all__ = ["DIFFERENCES", "NOTED", "UNIDENTIFIED"]


def prediction_layer(attention: int, hidden: int, inner: int, experts: int) -> int:
    """Return a multi-token-prediction layer (arXiv:2412.19437, section 2.2): a decoder layer, 2 hidden to 1, norms."""
    decoder_layer = attention + 2 * hidden + routed_experts(hidden, inner, experts, shared=inner)
    return decoder_layer + 2 * hidden * hidden + 3 * hidden


def fp8_scales(config: Config, layers: int) -> int:
    """Return the scales of DeepSeek-V3's FP8 weights, one for each block of 128 × 128, in so many layers."""
    hidden, heads, inner = config["hidden_size"], config["num_attention_heads"], config["moe_intermediate_size"]
    query_head = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    attention = (
        _blocks(config["q_lora_rank"], hidden)
        + _blocks(heads * query_head, config["q_lora_rank"])
        + _blocks(config["kv_lora_rank"] + config["qk_rope_head_dim"], hidden)
        + _blocks(heads * (config["qk_nope_head_dim"] + config["v_head_dim"]), config["kv_lora_rank"])
        + _blocks(hidden, heads * config["v_head_dim"])
    )
    dense = config["first_k_dense_replace"]
    experts = 3 * (config["n_routed_experts"] + config["n_shared_experts"]) * _blocks(inner, hidden)
    return int(
        layers * attention + dense * 3 * _blocks(config["intermediate_size"], hidden) + (layers - dense) * experts
    )


def _blocks(rows: int, columns: int) -> int:
    """Return how many blocks of 128 × 128 cover a matrix."""
    return ceil(rows / 128) * ceil(columns / 128)


def mxfp4_scales(*, layers: int, experts: int, hidden: int, inner: int) -> int:
    """Return the scales of gpt-oss' expert weights (gate, up and down), one for 32 values."""
    return layers * experts * 3 * hidden * inner // 32


_DEEPSEEK = {
    "hidden_size": 7168,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
}
_KIMI = {**_DEEPSEEK, "num_attention_heads": 64, "n_routed_experts": 384, "first_k_dense_replace": 1}

# DeepSeek-V3 without its FP8 scales: layer 61, its copies of embedding and output projection, and the correction
# biases of the routers of layers 3 to 61.
_DEEPSEEK_R1 = prediction_layer(latent_attention(_DEEPSEEK), 7168, 2048, 256) + 2 * 129280 * 7168 + 59 * 256

# Attention of GLM-4.5-Air (96 query and 8 key heads of 128, biases on Q, K and V) and of Qwen3-Next (16 and 2 heads of
# 256, a gate as wide as the queries, norms of one head's size on queries and keys).
_GLM_ATTENTION = (4096 + 1) * (96 + 2 * 8) * 128 + 96 * 128 * 4096
_QWEN_ATTENTION = 2048 * (2 * 16 + 2 * 2) * 256 + 16 * 256 * 2048 + 2 * 256

DIFFERENCES: dict[str, int] = {
    # A tied output projection that is stored all the same.
    "Qwen/Qwen3-0.6B": 151936 * 1024,
    "tiiuae/falcon-7b": 65024 * 4544,
    "google/flan-t5-base": 32128 * 768,
    # Rotary frequencies: half a head, in each layer.
    "meta-llama/Llama-2-7b-hf": 32 * 64,
    "meta-llama/Llama-2-70b-hf": 80 * 64,
    # Causal masks, and rotary frequencies of a quarter of a head of 96.
    "openai-community/gpt2": 12 * 1024 * 1024,
    "EleutherAI/gpt-neox-20b": 44 * 2048 * 2048 + 44 * (96 // 4 // 2),
    # Integer positions.
    "FacebookAI/roberta-large": 514,
    "sentence-transformers/all-MiniLM-L6-v2": 512,
    # A relative position bias of cross-attention: 32 buckets for each of 8 heads.
    "google-t5/t5-small": 32 * 8,
    # Other classes: BertForPreTraining has a pooler and a head for the next sentence; DebertaV2Model has no head.
    "google-bert/bert-base-uncased": (768 * 768 + 768) + (2 * 768 + 2),
    "microsoft/deberta-v3-base": -((768 * 768 + 768) + 2 * 768 + 128100),
    # Multi-token prediction. GLM has a copy of embedding and output projection in it; Qwen3-Next has not, and its
    # shared expert has a gate of its own.
    "deepseek-ai/DeepSeek-V3": _DEEPSEEK_R1 + fp8_scales(_DEEPSEEK, layers=62),
    "deepseek-ai/DeepSeek-R1": _DEEPSEEK_R1,
    "zai-org/GLM-4.5-Air": prediction_layer(_GLM_ATTENTION, 4096, 1408, 128) + 2 * 151552 * 4096 + 46 * 128,
    "Qwen/Qwen3-Next-80B-A3B-Instruct": prediction_layer(_QWEN_ATTENTION, 2048, 512, 512) + 2048,
    # Correction biases of the routers of layers 1 to 60.
    "moonshotai/Kimi-K2-Instruct": 60 * 384,
}

# Left over after DIFFERENCES. It is 61 × 56, which one more row of FP8 scales in each layer would be; nobody has
# looked into the files.
UNIDENTIFIED: dict[str, int] = {"moonshotai/Kimi-K2-Instruct": 3416}

# Totals of the Hub that were not taken as the published count but are told in the notes: what they hold beyond the
# model's own parameters (for the FP8 ones, beyond the published count).
NOTED: dict[str, int] = {
    "EleutherAI/pythia-1.4b": 24 * 2048 * 2048 + 24 * (128 // 4 // 2),
    "openai-community/gpt2-xl": 48 * 1024 * 1024,
    "openai/gpt-oss-20b": mxfp4_scales(layers=24, experts=32, hidden=2880, inner=2880),
    "openai/gpt-oss-120b": mxfp4_scales(layers=36, experts=128, hidden=2880, inner=2880),
    "deepseek-ai/DeepSeek-R1": fp8_scales(_DEEPSEEK, layers=62),
    "moonshotai/Kimi-K2-Instruct": fp8_scales(_KIMI, layers=61),
}
