"""The tape of a step on meta equals what a real step on the CPU allocates and frees, in order, event by event."""

from __future__ import annotations

import difflib
from typing import Any

import peft
import pytest
import torch
import transformers

from tests.trace.cpu_truth import meta_step, real_step

BATCH, LENGTH, VOCABULARY = 2, 24, 160
COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "vocab_size": VOCABULARY,
    "use_cache": False,
    "attn_implementation": "eager",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED: dict[str, Any] = {"num_key_value_heads": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 16},
    "mistral": {**GROUPED, "sliding_window": 8},
    "gemma2": {**GROUPED, "head_dim": 16, "sliding_window": 8},
    "gemma3_text": {**GROUPED, "head_dim": 16, "sliding_window": 8},
    "phi3": GROUPED,
    "olmo2": GROUPED,
    "gpt_neox": {},
    "starcoder2": {**GROUPED, "residual_dropout": 0.0, "embedding_dropout": 0.0},
    "stablelm": GROUPED,
    "granite": GROUPED,
    "cohere": GROUPED,
    "glm4": {**GROUPED, "head_dim": 16},
    "smollm3": GROUPED,
    # Its forward looks for padding at fixed places, with an index that has no value on meta, only to warn.
    "gpt2": {"pad_token_id": None, "n_inner": 96, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64, "dropout": 0.0},
    "falcon": {},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}


def build(
    device: str,
    model_type: str,
    *,
    adapter: bool = False,
    checkpointing: bool = False,
    reentrant: bool = False,
    cache: bool = False,
) -> Any:
    """Return a small model on a device with a batch for it."""
    config = transformers.AutoConfig.for_model(model_type, **{**COMMON, **ARCHITECTURES[model_type]})
    auto: Any = transformers.AutoModelForMaskedLM if model_type == "bert" else transformers.AutoModelForCausalLM
    with torch.device(device):
        torch.manual_seed(0)
        model = auto.from_config(config)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            model.enable_input_require_grads()
        if adapter:
            model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules="all-linear"))
    model.config.use_cache = cache
    model.train()
    ids = (torch.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) % VOCABULARY).to(device)
    return model, {"input_ids": ids, "labels": ids}


def assert_same_events(model_type: str, **options: bool) -> None:
    """Compare both runs; only what the CPU's own kernels take for themselves may be missing on meta."""
    real, inside = real_step(lambda device: build(device, model_type, **options))
    meta = meta_step(lambda device: build(device, model_type, **options))
    comparison = difflib.SequenceMatcher(None, real, meta, autojunk=False)
    for tag, start, end, meta_start, meta_end in comparison.get_opcodes():
        if tag == "equal":
            continue
        assert meta_start == meta_end, f"only on meta, at event {meta_start}: {meta[meta_start:meta_end]}"
        assert all(inside[start:end]), f"only on the CPU, at event {start}: {real[start:end]}"


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore")
def test_a_step_of_full_fine_tuning_allocates_and_frees_as_on_the_cpu(model_type: str) -> None:
    assert_same_events(model_type)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.filterwarnings("ignore")
def test_a_step_of_lora_allocates_and_frees_as_on_the_cpu(model_type: str, checkpointing: bool) -> None:
    assert_same_events(model_type, adapter=True, checkpointing=checkpointing)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.filterwarnings("ignore")
def test_reentrant_checkpointing_allocates_and_frees_as_on_the_cpu(model_type: str, adapter: bool) -> None:
    assert_same_events(model_type, adapter=adapter, checkpointing=True, reentrant=True)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.filterwarnings("ignore")
def test_a_forward_pass_that_fills_a_cache_allocates_and_frees_as_on_the_cpu(model_type: str) -> None:
    """The outputs of a plain loop hold the cache until the step is over."""
    assert_same_events(model_type, cache=True)
