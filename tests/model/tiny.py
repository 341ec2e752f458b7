"""Tiny configurations whose counts can be derived by hand; the arithmetic stands beside each."""

from __future__ import annotations

from typing import Any

import transformers

# hidden 16, 4 heads of 4, 2 KV heads, intermediate 32, vocabulary 64, 3 layers:
#   embedding 64*16 = 1,024; head the same when untied
#   attention q 16*16 + k 16*8 + v 16*8 + o 16*16 = 768; MLP 3*16*32 = 1,536; norms 2*16 = 32; layer 2,336
#   norm 16
LLAMA_LAYER = 768 + 1_536 + 32
LLAMA_TIED = 1_024 + 3 * LLAMA_LAYER + 16
LLAMA_UNTIED = LLAMA_TIED + 1_024


def llama(**changes: Any) -> transformers.LlamaConfig:
    """Return a tiny Llama configuration in bfloat16."""
    fields: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 64,
        "num_hidden_layers": 3,
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    return transformers.LlamaConfig(**{**fields, **changes})


def mixtral(**changes: Any) -> transformers.MixtralConfig:
    """Return a tiny expert model: 4 experts, 2 for each token, fused as [4, 64, 16] and [4, 16, 32]."""
    fields: dict[str, Any] = {
        "architectures": ["MixtralForCausalLM"],
        "hidden_size": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 64,
        "num_hidden_layers": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "dtype": "bfloat16",
    }
    return transformers.MixtralConfig(**{**fields, **changes})
