"""The generations that a GPU is held to: every kind of cache, of attention and of model that `generate` runs.

They are rows of the matrix (`matrix.py`), and small: few layers, and few experts where their number does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.evidence.truth.matrix_row import MatrixRow

__all__ = ["GENERATION_ROWS"]

_LLAMA = "meta-llama/Llama-3.2-1B"
_FEW_LOCAL_EXPERTS: Mapping[str, Any] = {"num_local_experts": 8}
_FEW_ROUTED: Mapping[str, Any] = {"n_routed_experts": 16, "first_k_dense_replace": 1}
# Of models that the catalogue does not have: the fields of a real one, but for what makes it large.
_IDS: Mapping[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "dtype": "bfloat16"}
_DECODER: Mapping[str, Any] = {
    **_IDS,
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
}
_GROUPED: Mapping[str, Any] = {**_DECODER, "num_key_value_heads": 4}


def _row(
    name: str,
    model: str,
    layers: int | None,
    prompt_len: int | None,
    new_tokens: int,
    options: str = "",
    fields: Mapping[str, Any] | None = None,
) -> MatrixRow:
    prompt = "" if prompt_len is None else f"--prompt-len {prompt_len} "
    asked = f"--generate {prompt}--new-tokens {new_tokens} {options}".strip()
    return MatrixRow(name=f"generate-{name}", model=model, layers=layers, options=asked, fields=fields)


def _own(
    name: str, kind: str, prompt_len: int, new_tokens: int, fields: Mapping[str, Any], options: str = ""
) -> MatrixRow:
    """Return a row of a model that the catalogue does not have."""
    whole = {"architectures": [kind], **fields}
    return _row(name, name, None, prompt_len, new_tokens, options, whole)


GENERATION_ROWS = (
    # Every way to generate, on one dense model with grouped queries.
    _row("llama", _LLAMA, 3, 300, 6),
    _row("llama-as-published", _LLAMA, 3, 64, 64),
    _row("llama-long", _LLAMA, 2, 8192, 4),
    _row("llama-one-token", _LLAMA, 3, 1, 5),
    _row("llama-batch", _LLAMA, 3, 300, 5, "--batch-size 4 --no-padding"),
    _row("llama-padded", _LLAMA, 3, 300, 10, "--batch-size 4"),
    _row("llama-static", _LLAMA, 3, 300, 5, "--cache static"),
    _row("llama-fp8", _LLAMA, 3, 300, 5, "--cache fp8"),
    _row("llama-none", _LLAMA, 3, 300, 5, "--cache none"),
    _row("llama-pieces", _LLAMA, 3, 300, 4, "--prefill-chunk-size 128"),
    _row("llama-eager", _LLAMA, 3, 300, 5, "--attention eager"),
    _row("llama-math", _LLAMA, 3, 300, 4, "--sdpa-backend math"),
    _row("llama-efficient", _LLAMA, 3, 300, 4, "--sdpa-backend efficient --batch-size 2"),
    _row("llama-float32", _LLAMA, 3, 300, 4, "--dtype float32"),
    _row("llama-float16", _LLAMA, 3, 300, 4, "--dtype float16"),
    _row("llama-autocast", _LLAMA, 3, 300, 4, "--dtype float32 --mixed-precision bf16"),
    _row("llama-lora", _LLAMA, 3, 300, 5, "--lora r=16 --targets all-linear"),
    _row("llama-lora-bf16", _LLAMA, 3, 300, 4, "--lora r=16 --targets all-linear --no-autocast-adapter-dtype"),
    _row("llama-dora", _LLAMA, 3, 300, 4, "--lora r=16,dora --targets q_proj,v_proj"),
    _row("llama-expandable", _LLAMA, 3, 2048, 4, "--alloc-conf expandable_segments:True"),
    # Other dense models.
    _row("qwen2.5", "Qwen/Qwen2.5-0.5B", 3, 300, 5),
    _row("qwen3", "Qwen/Qwen3-0.6B", 3, 300, 5, "--batch-size 2"),
    _row("smollm3", "HuggingFaceTB/SmolLM3-3B", 4, 200, 4),
    _row("olmo-2", "allenai/OLMo-2-1124-7B", 2, 200, 4, "--dtype bfloat16"),
    _row("granite", "ibm-granite/granite-3.3-8b-instruct", 2, 200, 4),
    _row("glm-4", "zai-org/GLM-4-9B-0414", 2, 200, 4),
    _row("stablelm", "stabilityai/stablelm-2-zephyr-1_6b", 3, 200, 4),
    _row("pythia", "EleutherAI/pythia-1.4b", 3, 200, 4),
    _row("falcon", "tiiuae/falcon-7b", 2, 200, 4),
    _row("bloom", "bigscience/bloom-7b1", 2, 200, 4, "--dtype bfloat16"),
    _row("phi-2", "microsoft/phi-2", 2, 200, 4),
    _row("phi-3", "microsoft/Phi-3-mini-4k-instruct", 2, 300, 4),
    # Learned positions.
    _row("gpt2", "openai-community/gpt2", 3, 200, 4),
    _row("gpt2-padded", "openai-community/gpt2", 3, 200, 4, "--batch-size 3"),
    _row("opt", "facebook/opt-1.3b", 3, 200, 4),
    # Windows: short of them, past them, and full on the way.
    _row("mistral", "mistralai/Mistral-7B-v0.1", 2, 300, 4),
    _row("mistral-past", "mistralai/Mistral-7B-v0.1", 2, 6000, 4),
    _row("mistral-fills", "mistralai/Mistral-7B-v0.1", 2, 60, 10, fields={"sliding_window": 64}),
    _row("starcoder2", "bigcode/starcoder2-7b", 2, 300, 4, "--dtype bfloat16"),
    _row("cohere2", "CohereLabs/c4ai-command-r7b-12-2024", 4, 300, 4),
    _row("gemma-2", "google/gemma-2-2b", 2, 300, 4, "--dtype bfloat16"),
    _row("gemma-3", "google/gemma-3-1b-it", 7, 300, 4),
    _row("gemma-3-past", "google/gemma-3-1b-it", 7, 700, 4),
    _row("gemma-3-fills", "google/gemma-3-1b-it", 7, 508, 8),
    _row("gemma-3-padded", "google/gemma-3-1b-it", 7, 700, 4, "--batch-size 2"),
    _row("gemma-3-text", "google/gemma-3-4b-it", 7, 300, 4),
    _row("gpt-oss", "openai/gpt-oss-20b", 2, 300, 4, "--dtype bfloat16", _FEW_LOCAL_EXPERTS),
    # Rotary embeddings of two ranges: within the first, past it, and across.
    _row("longrope", "microsoft/Phi-4-mini-instruct", 2, 300, 4),
    _row("longrope-past", "microsoft/Phi-4-mini-instruct", 2, 5000, 4),
    _row("longrope-crosses", "microsoft/Phi-4-mini-instruct", 2, 4094, 6),
    # Chunks.
    _row(
        "llama-4", "meta-llama/Llama-4-Scout-17B-16E-Instruct", 4, 300, 4, "--dtype bfloat16", {"num_local_experts": 2}
    ),
    _row(
        "llama-4-crosses",
        "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        4,
        126,
        6,
        "--dtype bfloat16",
        {"num_local_experts": 2, "attention_chunk_size": 128},
    ),
    # Latent caches.
    _row("deepseek-v2-lite", "deepseek-ai/DeepSeek-V2-Lite", 2, 300, 5),
    _row("deepseek-v3", "deepseek-ai/DeepSeek-V3", 2, 300, 4, "--dtype bfloat16", _FEW_ROUTED),
    _row("kimi-k2", "moonshotai/Kimi-K2-Instruct", 2, 300, 4, "--dtype bfloat16 --batch-size 2", _FEW_ROUTED),
    # Experts, which decoding gathers.
    _row("mixtral", "mistralai/Mixtral-8x7B-v0.1", 2, 200, 4),
    _row("mixtral-batch", "mistralai/Mixtral-8x7B-v0.1", 1, 200, 4, "--batch-size 16 --no-padding"),
    _row("qwen3-experts", "Qwen/Qwen3-30B-A3B", 2, 200, 4, "--batch-size 4 --no-padding"),
    _row("olmoe", "allenai/OLMoE-1B-7B-0924", 2, 200, 4, "--dtype bfloat16"),
    _row(
        "glm-4.5-air", "zai-org/GLM-4.5-Air", 2, 200, 4, fields={"n_routed_experts": 16, "num_nextn_predict_layers": 0}
    ),
    # Linear attention and state spaces.
    _row("mamba", "state-spaces/mamba-130m-hf", 3, 300, 5, "--dtype bfloat16"),
    _row("mamba-batch", "state-spaces/mamba-130m-hf", 3, 60, 4, "--dtype bfloat16 --batch-size 3 --no-padding"),
    _row(
        "jamba",
        "ai21labs/AI21-Jamba-1.5-Mini",
        4,
        200,
        4,
        "--dtype bfloat16",
        {"num_experts": 2, "attn_layer_period": 4, "attn_layer_offset": 1},
    ),
    _row("qwen3-next", "Qwen/Qwen3-Next-80B-A3B-Instruct", 4, 200, 4, fields={"num_experts": 16}),
    _own(
        "mamba-2",
        "Mamba2ForCausalLM",
        300,
        5,
        {
            **_IDS,
            "model_type": "mamba2",
            "vocab_size": 32000,
            "hidden_size": 1024,
            "num_hidden_layers": 3,
            "state_size": 128,
            "head_dim": 64,
            "num_heads": 32,
            "n_groups": 1,
            "expand": 2,
            "conv_kernel": 4,
            "chunk_size": 256,
        },
    ),
    _own(
        "falcon-mamba",
        "FalconMambaForCausalLM",
        300,
        5,
        {
            **_IDS,
            "model_type": "falcon_mamba",
            "vocab_size": 32000,
            "hidden_size": 1024,
            "intermediate_size": 2048,
            "num_hidden_layers": 3,
            "state_size": 16,
            "time_step_rank": 64,
        },
    ),
    _own(
        "bamba",
        "BambaForCausalLM",
        300,
        4,
        {
            **_GROUPED,
            "model_type": "bamba",
            "attn_layer_indices": [1],
            "mamba_n_heads": 32,
            "mamba_d_head": 64,
            "mamba_d_state": 128,
            "mamba_expand": 2,
        },
    ),
    _own(
        "recurrent-gemma",
        "RecurrentGemmaForCausalLM",
        300,
        5,
        {**_DECODER, "model_type": "recurrent_gemma", "lru_width": 1024, "attention_window_size": 128},
    ),
    _own(
        "rwkv",
        "RwkvForCausalLM",
        100,
        4,
        {
            **_IDS,
            "model_type": "rwkv",
            "vocab_size": 32000,
            "hidden_size": 1024,
            "attention_hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 3,
            "context_length": 1024,
        },
    ),
    _own(
        "lfm2",
        "Lfm2ForCausalLM",
        300,
        4,
        {
            **_GROUPED,
            "model_type": "lfm2",
            "conv_L_cache": 3,
            "block_ff_dim": 2816,
            "layer_types": ["conv", "full_attention", "conv"],
        },
    ),
    _own(
        "falcon-h1",
        "FalconH1ForCausalLM",
        300,
        4,
        {
            **_GROUPED,
            "model_type": "falcon_h1",
            "mamba_d_ssm": 2048,
            "mamba_n_heads": 32,
            "mamba_d_head": 64,
            "mamba_d_state": 128,
        },
    ),
    # Encoder-decoders.
    _row("t5-small", "google-t5/t5-small", None, 200, 5),
    _row("t5-padded", "google-t5/t5-small", None, 200, 5, "--batch-size 3"),
    _row("flan-t5", "google/flan-t5-base", None, 100, 4, "--dtype bfloat16"),
    # Without its forced last token, whose id the stand-in is asked about, and says that it is negative.
    _row(
        "bart",
        "facebook/bart-large",
        None,
        200,
        4,
        "--model-class BartForConditionalGeneration",
        {"forced_eos_token_id": None},
    ),
    _row("whisper-small", "openai/whisper-small", None, None, 5),
    _row("whisper-batch", "openai/whisper-small", None, None, 4, "--batch-size 2 --no-padding --dtype float16"),
    # Models of text and images, with text.
    _row("llava-text", "llava-hf/llava-1.5-7b-hf", 2, 200, 4),
    _row("qwen2.5-vl-text", "Qwen/Qwen2.5-VL-7B-Instruct", 2, 200, 4),
    # Whole models.
    _row("llama-3.2-1b", _LLAMA, None, 1024, 16),
    _row("qwen2.5-7b", "Qwen/Qwen2.5-7B", None, 2048, 8),
    _row("llama-3.1-8b", "meta-llama/Meta-Llama-3.1-8B", None, 64, 64),
)
