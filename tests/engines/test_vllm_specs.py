"""The page rules beside vLLM's own classes, where vllm is installed (0.33.0, without its dependencies)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inspector.dtypes import BY_TORCH_NAME
from inspector.engines.kv_cache import Page, build_pool, count_blocks
from inspector.engines.layers import list_layers
from inspector.errors import UnsupportedModelError
from inspector.model.configuration import read_configuration
from inspector.records.engines.serving import CacheKind
from inspector.source import catalogue

specs: Any = pytest.importorskip("vllm.v1.kv_cache_interface", exc_type=ImportError)

LENGTH, IN_FLIGHT, ENCODED = 16384, 8192, 1500


def _configure(mamba_mode: str) -> SimpleNamespace:
    """Return what the classes read of vLLM's configuration."""
    return SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=LENGTH),
        scheduler_config=SimpleNamespace(max_num_encoder_input_tokens=ENCODED),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1),
        cache_config=SimpleNamespace(mamba_cache_mode=mamba_mode),
        max_in_flight_tokens=IN_FLIGHT,
    )


def _build_spec(page: Page, ranks: int) -> Any:
    """Return vLLM's specification of the layer of a page, as its models make it."""
    layer = page.layer
    if layer.kind is CacheKind.STATE:
        shapes = tuple(
            tuple(size // (ranks if index == state.sharded else 1) for index, size in enumerate(state.shape))
            for state in layer.states
        )
        return specs.MambaSpec(
            block_size=LENGTH,
            shapes=shapes,
            dtypes=tuple(getattr(torch, state.dtype or "bfloat16") for state in layer.states),
            page_size_padded=page.bytes if page.padded else None,
            mamba_cache_mode="align" if page.states == 2 else "none",
        )
    shared: dict[str, Any] = {
        "block_size": page.tokens,
        "num_kv_heads": max(1, layer.heads // ranks),
        "head_size": layer.key_size,
        "dtype": torch.bfloat16,
        "page_size_padded": page.bytes if page.padded else None,
    }
    if layer.kind is CacheKind.LATENT:
        return specs.MLAAttentionSpec(**{**shared, "num_kv_heads": 1})
    shared["head_size_v"] = layer.value_size
    if layer.kind is CacheKind.SLIDING:
        return specs.SlidingWindowSpec(**shared, sliding_window=layer.window)
    if layer.kind is CacheKind.CHUNKED:
        return specs.ChunkedLocalAttentionSpec(**shared, attention_chunk_size=layer.window)
    if layer.kind is CacheKind.CROSS:
        return specs.CrossAttentionSpec(**shared)
    return specs.FullAttentionSpec(**shared)


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_page_of_the_catalogue_is_as_large_as_vllms_own(ranks: int) -> None:
    """The bytes of a page, and the most that a request of 16,384 tokens holds with 8,192 in flight."""
    seen: set[CacheKind] = set()
    for name in catalogue.list_ids():
        files = catalogue.load_model(name)
        assert files is not None
        try:
            layers = list_layers(read_configuration(files)[0])
        except UnsupportedModelError:
            continue
        pool = build_pool(layers, block_size=16, element_bytes=2, ranks=ranks, model_dtype="bfloat16")
        for page in {page for group in pool.groups for page in group.pages}:
            spec = _build_spec(page, ranks)
            assert spec.page_size_bytes == page.bytes, (name, page)
            configuration = _configure("align" if page.states == 2 else "none")
            wanted = spec.max_memory_usage_bytes(configuration) // spec.page_size_bytes
            assert count_blocks(page, LENGTH, IN_FLIGHT) == wanted, (name, page)
            seen.add(page.layer.kind)
    assert seen == set(CacheKind)


def test_the_types_of_the_cache_have_vllms_sizes() -> None:
    """A value of the cache takes what torch says of its dtype."""
    for name in ("bfloat16", "float16", "float32"):
        assert BY_TORCH_NAME[name].bits == 8 * getattr(torch, name).itemsize


@pytest.mark.parametrize(
    "name",
    [
        *("openai/gpt-oss-20b", "google/gemma-3-27b-it", "google/gemma-2-9b", "Qwen/Qwen3-8B"),
        *("meta-llama/Llama-4-Scout-17B-16E-Instruct", "mistralai/Mistral-7B-v0.1", "moonshotai/Kimi-K2-Instruct"),
    ],
)
def test_the_groups_are_vllms_own(name: str) -> None:
    """How many groups there are, of how many layers each, and how large a block of the pool is."""
    planning: Any = pytest.importorskip("vllm.v1.core.kv_cache_planning", exc_type=ImportError)
    files = catalogue.load_model(name)
    assert files is not None
    layers = list_layers(read_configuration(files)[0])
    pool = build_pool(layers, block_size=16, element_bytes=2, ranks=1, model_dtype="bfloat16")
    plain = {str(index): _build_spec(Page(layer=layer, tokens=16, bytes=0), 1) for index, layer in enumerate(layers)}
    if planning.is_kv_cache_spec_uniform(plain):
        groups = planning._get_kv_cache_groups_uniform_spec(plain)
    else:
        unified = planning.unify_kv_cache_spec_page_size(plain)
        groups = planning._get_kv_cache_groups_uniform_page_size(unified)
    assert sorted(len(group.layer_names) for group in groups) == sorted(len(group.pages) for group in pool.groups)
    page = groups[0].kv_cache_spec.page_size_bytes
    assert max(len(group.layer_names) for group in groups) * page == pool.block_bytes
