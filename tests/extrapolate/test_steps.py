"""A long generation that is extrapolated from short ones is the one whose steps were all traced, event by event."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import transformers

from inspector.extrapolate.size_laws import FlashCall, Keys, SizeTable, find_sizes
from inspector.extrapolate.steps import StepExtrapolation
from inspector.hardware.flash_splits import count_flash_splits
from inspector.hardware.platform import Platform, build_platform
from inspector.predict.predictor import Prediction, Predictor
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.resolve import ResolvedRun, resolve_run
from inspector.workloads.base import NotTraceableError
from tests.trace.small_models import COMMON, SMALL

# A release goes through 512 steps of each.
STEPS = 512 if os.environ.get("INSPECTOR_TRUTH") == "all" else 72


def make_run(name: str, prompt_len: int, new_tokens: int, *, batch_size: int = 1, **fields: Any) -> ResolvedRun:
    """Return the generation of a small model."""
    small = SMALL[name].fields if name in SMALL else {}
    config = transformers.AutoConfig.for_model(name, **(COMMON | small | fields))
    head: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    config.architectures = [head.__name__]
    recipe = Recipe(prompt_len=prompt_len, new_tokens=new_tokens, batch_size=batch_size)
    request = Request(model=config, dtype="bfloat16", workload="generate", recipe=recipe)
    return resolve_run(request, None, {})


CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "full": ("llama", 100, {}),
    # Masks are padded to multiples of 8: every eighth step does without.
    "padded": ("llama", 100, {"batch_size": 2}),
    # The window is full in the middle.
    "sliding": ("mistral", 60, {"sliding_window": 60 + STEPS // 2}),
    "alternating": ("gemma3_text", 60, {"sliding_window": 60 + STEPS // 3}),
    "latent": ("deepseek_v3", 60, {}),
    "state": ("mamba", 60, {"state_size": 8, "time_step_rank": 4}),
    "state and full": (
        "lfm2",
        60,
        {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 96},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.one_of(3)
def test_an_extrapolated_generation_is_the_traced_one(case: str) -> None:
    name, prompt_len, fields = CASES[case]
    run = make_run(name, prompt_len, STEPS, **fields)
    predictor = Predictor(None)
    prediction = predictor.predict(run)
    assert isinstance(prediction.template.extrapolation, StepExtrapolation)
    assert prediction.template.extrapolation.traced_steps < STEPS * 3
    _, _, whole = predictor._trace_deep(run)
    traced = Prediction(run, prediction.recipe, lambda: (whole, whole.sizes))
    differing = [pair for pair in zip(prediction.tape, traced.tape, strict=True) if pair[0] != pair[1]]
    assert not differing, differing[:2]
    assert prediction.replays.unlimited == traced.replays.unlimited


@pytest.mark.filterwarnings("ignore")
def test_a_generation_of_more_events_than_can_be_held_is_refused_with_how_many_tokens_can() -> None:
    with pytest.raises(NotTraceableError, match=r"use at most [\d,]+ `new_tokens`"):
        Predictor(None).predict(make_run("llama", 10, 2**20, max_position_embeddings=2**21))


@pytest.mark.filterwarnings("ignore")
def test_a_step_at_which_a_cache_is_computed_anew_is_traced_with_all_others() -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [1.0] * 8}
    fields: dict[str, Any] = {
        "rope_parameters": rope,
        "original_max_position_embeddings": 50,
        "max_position_embeddings": 4096,
    }
    extrapolations = [
        Predictor(None).predict(make_run("phi3", prompt_len, 70, **fields)).template.extrapolation
        for prompt_len in (20, 60)
    ]
    assert [isinstance(item, StepExtrapolation) for item in extrapolations] == [False, True]


@pytest.mark.filterwarnings("ignore")
def test_a_step_at_which_attention_begins_a_new_chunk_is_traced_with_all_others() -> None:
    fields = {"num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 2, "intermediate_size_mlp": 96}
    extrapolations = [
        Predictor(None)
        .predict(make_run("llama4_text", 20, 70, num_hidden_layers=4, attention_chunk_size=chunk, **fields))
        .template.extrapolation
        for chunk in (80, 160)
    ]
    assert [isinstance(item, StepExtrapolation) for item in extrapolations] == [False, True]


KEYS = Keys(platform=build_platform(None), prompt_len=1000, group_sizes=(1, 4))
SEEN = np.array([*range(4, 24), *range(500, 520)])


def make_table(*sizes: Any) -> SizeTable:
    """Return the sizes that functions of the step give."""
    return SizeTable(steps=SEEN, sizes=np.array([[size(int(step)) for size in sizes] for step in SEEN]))


def test_a_size_is_constant_or_grows_with_every_token() -> None:
    wanted = np.arange(24, 500)
    found = find_sizes(make_table(lambda step: 4096, lambda step: 256 * step), wanted, (), KEYS)
    assert found is not None
    assert found.tolist() == [[4096, 256 * step] for step in wanted.tolist()]


def test_a_size_that_no_law_explains_is_none() -> None:
    assert find_sizes(make_table(lambda step: step * step), np.arange(24, 500), (), KEYS) is None
    assert find_sizes(make_table(lambda step: 512 * -(-step // 64)), np.arange(24, 500), (), KEYS) is None


def split(step: int, platform: Platform) -> int:
    """Return the parts of the keys of a step, of 8 heads of 4 rows."""
    return count_flash_splits(platform, 8, 4, KEYS.prompt_len + step - 1, 128)


def test_the_parts_of_flash_attention_follow_from_its_formula() -> None:
    sums, size, wanted = 4 * 32, 128, np.arange(24, 500)
    table = make_table(
        lambda step: 32 * size * 2,
        lambda step: sums,
        lambda step: split(step, KEYS.platform) * sums,
        lambda step: split(step, KEYS.platform) * sums * size,
    )
    found = find_sizes(table, wanted, [FlashCall(output=0, sums=1, parts=(2, 3))], KEYS)
    assert found is not None
    parts = [split(step, KEYS.platform) for step in wanted.tolist()]
    assert len(set(parts)) > 2  # the case tells: they change on the way
    assert found[:, 2].tolist() == [count * sums for count in parts]
    assert found[:, 3].tolist() == [count * sums * size for count in parts]
