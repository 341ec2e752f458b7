"""vLLM's rules: published logs to the token, and every decoder of the bundled catalogue or why it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from inspector.engines import sglang, vllm
from inspector.engines.kv_cache import build_pool
from inspector.engines.layers import list_layers
from inspector.engines.model import ServedModel, read_model
from inspector.engines.shards import WeightTensor
from inspector.errors import UnsupportedModelError, UsageError
from inspector.hardware.catalogue import find_gpu
from inspector.model.configuration import read_configuration
from inspector.records.engines.serving import CacheKind, ServingOptions
from inspector.records.fit import Fit
from inspector.records.model import Role
from inspector.source import catalogue

# Bytes of a token in the cache of one GPU, 16 bits a value. Of the models with `k_proj` and `v_proj` it is two bytes
# for each of their rows, counted on the built models when this was written; fused and latent ones as the comment says.
BYTES_PER_TOKEN = {
    "Qwen/Qwen3-8B": 36 * 2 * 8 * 128 * 2,
    "meta-llama/Meta-Llama-3.1-8B": 32 * 2 * 8 * 128 * 2,
    "meta-llama/Meta-Llama-3.1-405B": 126 * 2 * 8 * 128 * 2,
    "mistralai/Mistral-Nemo-Instruct-2407": 40 * 2 * 8 * 128 * 2,
    "google/gemma-3-27b-it": 62 * 2 * 16 * 128 * 2,
    "openai/gpt-oss-120b": 36 * 2 * 8 * 64 * 2,
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": 48 * 2 * 8 * 128 * 2,
    "EleutherAI/pythia-1.4b": 24 * 2 * 16 * 128 * 2,
    "bigscience/bloom-7b1": 30 * 2 * 32 * 128 * 2,
    "microsoft/phi-4": 40 * 2 * 10 * 128 * 2,
    "openai-community/gpt2-xl": 48 * 2 * 25 * 64 * 2,
    "tiiuae/falcon-7b": 32 * 2 * 1 * 64 * 2,  # one head for all queries
    "deepseek-ai/DeepSeek-V2-Lite": 27 * (512 + 64) * 2,  # the latent and the rotated part of the key
    "moonshotai/Kimi-K2-Instruct": 61 * (512 + 64) * 2,
    "Qwen/Qwen3-Next-80B-A3B-Instruct": 12 * 2 * 2 * 256 * 2,  # of 48 layers, 36 keep a state
    "ai21labs/AI21-Jamba-1.5-Mini": 4 * 2 * 8 * 128 * 2,
    "state-spaces/mamba-130m-hf": 0,
    "openai/whisper-small": 12 * 2 * 12 * 64 * 2,  # the cross attention keeps the encoder's output, not tokens
}
REFUSED = ("generates nothing", "has an encoder and a decoder")


def _read(name: str, **facts: Any) -> ServedModel:
    """Return a model of the catalogue as the rules read it, with weights of a size."""
    config, _ = read_configuration(_find(name))
    weights = (WeightTensor(name="w", shape=(1,), bytes=facts.pop("weights", 0), role=Role.NORM),)
    facts = {"dtype": "bfloat16", "packed_bytes": None, "has_tower": False, **facts}
    return read_model(config, list_layers(config), weights, **facts)


def _find(name: str) -> Any:
    files = catalogue.load_model(name)
    assert files is not None
    return files


def test_kimi_k2_of_a_published_log_holds_715072_tokens_to_the_token() -> None:
    """Its log had "Available KV cache memory: 46.80 GiB" and 715,072 tokens on H200s: the latent is on each rank."""
    options = ServingOptions(
        engine="vllm", tensor_parallel_size=8, kv_cache_memory_bytes=int(46.80 * 2**30), max_model_len=131072
    )
    serving = vllm.serve(_read("moonshotai/Kimi-K2-Instruct"), options, [(find_gpu("h200").gpu, 8)])
    (verdict,) = serving.verdicts
    assert serving.bytes_per_token == 576 * 2 * 61
    assert verdict.tokens is not None
    assert verdict.tokens.is_exact
    assert verdict.tokens.low == 715_072


def test_a_published_cache_of_sglang_is_the_tokens_of_its_log_but_for_its_decimals() -> None:
    """Qwen3-235B-FP8 on four cards: K and V of 8.23 GB each, which hide up to 0.005 of them, were 367,404 tokens."""
    serving = sglang.serve(
        _read("Qwen/Qwen3-235B-A22B"), ServingOptions(engine="sglang", tensor_parallel_size=4, context_length=4096), []
    )
    assert serving.bytes_per_token == 94 * 2 * 1 * 128 * 2
    assert (
        int(2 * 8.225 * 2**30) // serving.bytes_per_token <= 367_404 <= int(2 * 8.24 * 2**30) // serving.bytes_per_token
    )


def test_every_model_of_the_catalogue_has_its_bytes_a_token_or_is_refused_by_name() -> None:
    """Each decoder has layers that keep something; what generates nothing says so, in one line."""
    refused: dict[str, str] = {}
    for name in catalogue.list_ids():
        config, _ = read_configuration(_find(name))
        try:
            layers = list_layers(config)
        except UnsupportedModelError as error:
            refused[name] = str(error)
            continue
        size = sum(
            2 * layer.values_per_token(1) for layer in layers if layer.kind not in (CacheKind.STATE, CacheKind.CROSS)
        )
        assert size == BYTES_PER_TOKEN.get(name, size), name
        pool = build_pool(layers, block_size=16, element_bytes=2, ranks=1, model_dtype="bfloat16")
        # A block has room for all the layers of its group, and no group is wider than the block.
        assert pool.block_bytes * len(pool.groups) >= 16 * size, name
    assert len(refused) == 11
    assert all(any(reason in message for reason in REFUSED) for message in refused.values())


def test_sliding_layers_keep_their_window_and_what_is_in_flight() -> None:
    """gpt-oss: 12 full layers of 32,768 tokens, 12 sliding ones of 127 + 2 steps of 2,048, and one block more."""
    options = ServingOptions(engine="vllm", max_model_len=32768)
    serving = vllm.serve(_read("openai/gpt-oss-20b"), options, [])
    full = -(-32768 // 16)
    sliding = -(-(127 + 2 * 2048) // 16) + 1
    assert serving.request_bytes == (full + sliding) * 12 * 16 * 8 * 128 * 2
    assert {group.kind: group.request_bytes for group in serving.groups} == {
        CacheKind.SLIDING: sliding * 12 * 32768,
        CacheKind.FULL: full * 12 * 32768,
    }


def test_groups_are_as_large_as_the_kind_with_the_fewest_layers() -> None:
    """Gemma-3-27b: 10 full and 52 sliding layers make 1 + 6 groups of 10 layers' blocks."""
    config, _ = read_configuration(_find("google/gemma-3-27b-it"))
    pool = build_pool(list_layers(config), block_size=16, element_bytes=2, ranks=1, model_dtype="bfloat16")
    assert sorted(len(group.pages) for group in pool.groups) == [8, 8, 9, 9, 9, 9, 10]
    assert pool.block_bytes == 10 * 16 * 2 * 16 * 128 * 2


def test_a_state_raises_the_block_of_attention_above_it() -> None:
    """Jamba: a state of 8,192 x (3 + 16) values of 2 bytes is 76 tokens of 4,096 bytes, and blocks go by 16: 80."""
    config, _ = read_configuration(_find("ai21labs/AI21-Jamba-1.5-Mini"))
    pool = build_pool(list_layers(config), block_size=16, element_bytes=2, ranks=1, model_dtype="bfloat16")
    tokens = {page.layer.kind: page.tokens for group in pool.groups for page in group.pages}
    state = 8192 * (3 + 16) * 2
    assert tokens == {CacheKind.STATE: None, CacheKind.FULL: -(-state // (16 * 4096)) * 16}
    assert {page.bytes for group in pool.groups for page in group.pages} == {80 * 4096}


@pytest.mark.parametrize(
    ("requests", "weights", "outcome"),
    [
        (8, 16 * 2**30, Fit.YES),  # 36 GB of cache for what leaves more than 50 of it
        (32, 16 * 2**30, Fit.TIGHT),
        (8, 67 * 2**30, Fit.UNKNOWN),  # 4.5 GiB are needed, and from 4.0 to 5.6 remain
        (8, 72 * 2**30, Fit.NO),
    ],
)
def test_the_verdict_is_what_both_ends_of_the_budget_say(requests: int, weights: int, outcome: Fit) -> None:
    """A request of the whole length has to have room; as many as were asked for at once, or some wait."""
    options = ServingOptions(engine="vllm", max_model_len=32768, max_num_seqs=requests)
    model = _read("Qwen/Qwen3-8B", weights=weights)
    (verdict,) = vllm.serve(model, options, [(find_gpu("a100-80gb").gpu, 1)]).verdicts
    assert verdict.outcome is outcome, verdict.reason
    assert verdict.cache_bytes is not None
    assert verdict.allowed_bytes - verdict.cache_bytes.high == sum(item.bytes.low for item in verdict.budget)


def test_a_yes_says_how_many_requests_have_room_where_no_number_was_asked_for() -> None:
    """Not that one runs at once, beside a line with the tokens of several."""
    model, card = _read("Qwen/Qwen3-8B", weights=16 * 2**30), [(find_gpu("a100-80gb").gpu, 1)]
    (verdict,) = vllm.serve(model, ServingOptions(engine="vllm", max_model_len=32768), card).verdicts
    assert verdict.concurrency_hundredths is not None
    least = verdict.concurrency_hundredths.low // 100
    assert least > 1
    assert verdict.reason == f"room for at least {least} requests of 32,768 tokens"


def test_a_length_beyond_the_positions_is_refused_as_vllm_refuses_it() -> None:
    """Qwen3-8B has 40,960 positions."""
    with pytest.raises(UsageError, match="`max_model_len` 50000 is more than the 40960 positions"):
        vllm.serve(_read("Qwen/Qwen3-8B"), ServingOptions(engine="vllm", max_model_len=50000), [])


def test_more_of_a_card_than_is_free_is_a_no() -> None:
    """The CUDA context is there before vLLM measures what is free."""
    options = ServingOptions(engine="vllm", gpu_memory_utilization=1.0)
    (verdict,) = vllm.serve(_read("Qwen/Qwen3-8B"), options, [(find_gpu("h100").gpu, 1)]).verdicts
    assert verdict.outcome is Fit.NO
    assert "refuses to start" in verdict.reason


def test_a_cache_of_given_bytes_has_to_fit_beside_all_else() -> None:
    """15.3 GiB of weights leave no 10 GiB of a 24 GB card, and 5 GiB surely."""
    model, card = _read("Qwen/Qwen3-8B", weights=16_381_470_720), [(find_gpu("4090").gpu, 1)]
    outcomes = [
        vllm.serve(model, ServingOptions(engine="vllm", kv_cache_memory_bytes=size * 2**30), card).verdicts[0].outcome
        for size in (10, 7, 6)
    ]
    assert outcomes == [Fit.NO, Fit.UNKNOWN, Fit.UNKNOWN]
    options = ServingOptions(engine="vllm", kv_cache_memory_bytes=5 * 2**30, max_model_len=32768, max_num_seqs=1)
    assert vllm.serve(model, options, card).verdicts[0].outcome is Fit.YES


def test_what_is_too_long_says_which_length_has_room() -> None:
    """4 GiB hold 1,820 blocks of 36 layers, one of which is never given out."""
    options = ServingOptions(engine="vllm", kv_cache_memory_bytes=4 * 2**30, max_model_len=32768)
    (verdict,) = vllm.serve(_read("Qwen/Qwen3-8B"), options, [(find_gpu("4090").gpu, 1)]).verdicts
    blocks = 4 * 2**30 // (36 * 65536) - 1
    assert verdict.outcome is Fit.NO
    assert f"up to {16 * blocks:,} tokens may have room" in verdict.reason


def test_ranks_share_heads_and_keep_the_fewest_whole() -> None:
    """Of 8 heads of keys and values, 4 ranks hold two each; of GLM-4's two, each rank holds one."""
    of_qwen = vllm.serve(_read("Qwen/Qwen3-8B"), ServingOptions(engine="vllm", tensor_parallel_size=4), [])
    of_glm = vllm.serve(_read("zai-org/GLM-4-9B-0414"), ServingOptions(engine="vllm", tensor_parallel_size=4), [])
    assert of_qwen.bytes_per_token == 36 * 2 * 2 * 128 * 2
    assert of_glm.bytes_per_token == 40 * 2 * 1 * 128 * 2
    with pytest.raises(UsageError, match="does not divide the 32 attention heads"):
        vllm.serve(_read("Qwen/Qwen3-8B"), ServingOptions(engine="vllm", tensor_parallel_size=3), [])
