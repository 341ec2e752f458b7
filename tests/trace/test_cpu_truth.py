"""The tape of a step on meta equals what a real step on the CPU allocates and frees, in order, event by event."""

from __future__ import annotations

import difflib

import pytest

from tests.trace.cpu_truth import meta_step, real_step
from tests.trace.small_models import SMALL, build


def assert_same_events(name: str, **options: bool) -> None:
    """Compare both runs; only what the CPU's own kernels take for themselves may be missing on meta."""
    real, inside = real_step(lambda device: build(device, name, **options))
    meta = meta_step(lambda device: build(device, name, **options))
    comparison = difflib.SequenceMatcher(None, real, meta, autojunk=False)
    for tag, start, end, meta_start, meta_end in comparison.get_opcodes():
        if tag == "equal":
            continue
        assert meta_start == meta_end, f"only on meta, at event {meta_start}: {meta[meta_start:meta_end]}"
        assert all(inside[start:end]), f"only on the CPU, at event {start}: {real[start:end]}"


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore")
def test_a_step_of_full_fine_tuning_allocates_and_frees_as_on_the_cpu(name: str) -> None:
    assert_same_events(name)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.filterwarnings("ignore")
def test_a_step_of_lora_allocates_and_frees_as_on_the_cpu(name: str, checkpointing: bool) -> None:
    assert_same_events(name, adapter=True, checkpointing=checkpointing)
