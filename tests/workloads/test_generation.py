"""Generation as it is traced takes at most what transformers' `generate` does: both on the CPU, by torch's profiler."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import GenerationConfig

from inspector.workloads.training.stages.generation import generate
from tests.trace.cpu_truth import profiled_events
from tests.trace.small_models import build

ROWS = 6


def peak_of(run: Callable[[Any, Tensor, Tensor], Tensor], prompt_len: int) -> int:
    """Return the most bytes that are allocated at a time while answers to prompts are generated."""
    model: Any = build("cpu", "qwen2")[0]
    for config in (model.config, model.generation_config):
        config.eos_token_id = None
    ids = torch.full((ROWS, prompt_len), 5)
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    with torch.no_grad():
        run(model, ids, mask)
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            run(model, ids, mask)
    return max(itertools.accumulate(profiled_events(recorded)[0]))


@pytest.mark.parametrize(("prompt_len", "completion_len"), [(40, 2), (4, 24)], ids=["long prompts", "long answers"])
@pytest.mark.filterwarnings("ignore")
def test_the_first_and_the_last_token_take_what_all_of_them_do(prompt_len: int, completion_len: int) -> None:
    config = GenerationConfig(
        max_new_tokens=completion_len, do_sample=True, top_k=0, use_cache=True, disable_compile=True, pad_token_id=8
    )

    def run_transformers(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
        generated: Tensor = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        return generated

    def run_ours(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
        return generate(model, model.config.get_text_config(decoder=True), ids, mask, completion_len)

    assert peak_of(run_ours, prompt_len) == peak_of(run_transformers, prompt_len)
