"""What an engine's rules say of each layer, off the configuration, and what transformers' own cache holds of it.

Two routes to the same bytes: `inspector.engines.layers` reads a configuration, the workload `generate` the tensors that
a traced step made. They differ where the engines differ from transformers: vLLM keeps one column of a convolution less.
"""

from __future__ import annotations

import os
from collections import Counter
from math import prod
from typing import Any

import pytest

from inspector.engines.layers import LayerCache, list_layers
from inspector.errors import UnsupportedModelError
from inspector.predict.predictor import Predictor
from inspector.records.engines.serving import CacheKind
from inspector.records.memory import CacheFacts, CacheLayers, LayerKind
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.records.source import ServedFrom, SourceFiles
from inspector.resolve import resolve_run
from inspector.source.catalogue import list_ids
from inspector.workloads.base import base_model
from tests.evidence.truth.matrix_row import cut

# One of each kind; a release goes through the whole catalogue.
SAMPLE = (
    *("Qwen/Qwen3-0.6B", "google/gemma-3-1b-it", "openai/gpt-oss-20b", "deepseek-ai/DeepSeek-V2-Lite"),
    *("tiiuae/falcon-7b", "state-spaces/mamba-130m-hf", "Qwen/Qwen3-Next-80B-A3B-Instruct", "openai/whisper-small"),
)
CHOSEN = list_ids() if os.environ.get("INSPECTOR_TRUTH") == "all" else SAMPLE
# Enough for one of each kind of layer.
LAYERS = 8


def trace_cache(model: str) -> tuple[Any, CacheFacts] | None:
    """Return the configuration of a model of the catalogue with few layers and its traced cache, None without one."""
    request = Request(
        model=model, dtype="bfloat16", offline=True, workload="generate", recipe=Recipe(prompt_len=8, new_tokens=2)
    )
    predictor = Predictor(SourceFiles(id=model, served_from=ServedFrom.LOCAL, config=cut(model, LAYERS)))
    base = base_model(predictor.findings.tracer.build_whole(request).model)
    if not (hasattr(base, "can_generate") and base.can_generate()):
        return None
    facts = predictor.describe_cache(resolve_run(request, None, {}))
    assert facts is not None
    return base.config, facts


def describe_rule(layer: LayerCache) -> tuple[str, int]:
    """Return the kind of a layer and the bytes of a token in it, of a state without its convolution."""
    if layer.kind is CacheKind.STATE:
        return "state", prod(layer.states[-1].shape)
    return layer.kind.value, 2 * layer.values_per_token(1)


def describe_traced(layers: CacheLayers) -> tuple[str, int]:
    """Return the same of a traced layer: of a state how many numbers it has."""
    if layers.kind is LayerKind.STATE:
        return "state", prod(next(tensor.shape for tensor in layers.tensors if "recurrent" in tensor.name))
    if layers.kind is LayerKind.CROSS:
        return "cross", sum(2 * tensor.shape[1] * tensor.shape[3] for tensor in layers.tensors)
    return layers.kind.value, layers.bytes_per_token


@pytest.mark.parametrize("model", CHOSEN)
@pytest.mark.filterwarnings("ignore")
def test_each_layer_of_the_cache_takes_what_the_rules_of_engines_say(model: str) -> None:
    traced = trace_cache(model)
    if traced is None:
        pytest.skip("generates nothing")
    config, facts = traced
    found: Counter[tuple[str, int]] = Counter()
    for layers in facts.layers:
        found[describe_traced(layers)] += layers.count
    try:
        ruled = Counter(map(describe_rule, list_layers(config)))
    except UnsupportedModelError:
        assert config.model_type == "t5"  # which no engine here serves
        return
    assert found == ruled


@pytest.mark.filterwarnings("ignore")
def test_an_engine_keeps_one_column_of_a_convolution_less_than_transformers() -> None:
    traced = trace_cache("Qwen/Qwen3-Next-80B-A3B-Instruct")
    assert traced is not None
    config, facts = traced
    state = next(layers for layers in facts.layers if layers.kind is LayerKind.STATE)
    convolution = next(tensor.shape for tensor in state.tensors if "conv" in tensor.name)
    rule = next(layer for layer in list_layers(config) if layer.kind is CacheKind.STATE).states[0]
    assert convolution[1:] == (rule.shape[0], rule.shape[1] + 1)
