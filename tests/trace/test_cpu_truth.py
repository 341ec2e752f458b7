"""The tape of a step on meta equals what a real step on the CPU allocates and frees, in order, event by event."""

from __future__ import annotations

import pytest
import torch
import transformers

from inspector.trace.rules.foreach import use_foreach_on_meta
from tests.trace.cpu_truth import Optimize, adamw, assert_aligned, meta_step, real_step
from tests.trace.small_models import SMALL, build


def assert_same_events(name: str, optimize: Optimize = adamw, **options: bool) -> None:
    """Compare both runs event by event; only what the CPU's own kernels take may be missing on meta."""
    real, inside = real_step(lambda device: build(device, name, **options), optimize, SMALL[name].kernels)
    batch = build("cpu", name)[1].items()
    values = {key: item for key, item in batch if isinstance(item, torch.Tensor) and not item.is_floating_point()}
    meta = meta_step(lambda device: build(device, name, **options), optimize, values)
    assert_aligned(real, inside, meta)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.one_of(3)
def test_a_step_of_full_fine_tuning_allocates_and_frees_as_on_the_cpu(name: str) -> None:
    assert_same_events(name)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.filterwarnings("ignore")
def test_a_step_of_lora_allocates_and_frees_as_on_the_cpu(name: str, checkpointing: bool) -> None:
    assert_same_events(name, adapter=True, checkpointing=checkpointing)


OPTIMIZERS: dict[str, Optimize] = {
    "adamw, one tensor after the other": lambda parameters: torch.optim.AdamW(parameters, foreach=False),
    "adamw, fused": lambda parameters: torch.optim.AdamW(parameters, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, foreach=True),
    "sgd with momentum": lambda parameters: torch.optim.SGD(parameters, momentum=0.9, nesterov=True, foreach=True),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, foreach=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, foreach=True),
    "rmsprop with momentum": lambda parameters: torch.optim.RMSprop(
        parameters, momentum=0.9, centered=True, foreach=True
    ),
    "adafactor": lambda parameters: transformers.optimization.Adafactor(
        parameters, lr=5e-5, scale_parameter=False, relative_step=False
    ),
}


@pytest.mark.parametrize("optimize", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.one_of(3)
def test_a_step_of_every_optimizer_allocates_and_frees_as_on_the_cpu(optimize: Optimize, adapter: bool) -> None:
    with use_foreach_on_meta():  # fused kernels are refused on meta else
        assert_same_events("llama", optimize, adapter=adapter)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.one_of(3)
def test_reentrant_checkpointing_allocates_and_frees_as_on_the_cpu(name: str, adapter: bool) -> None:
    assert_same_events(name, adapter=adapter, checkpointing=True, reentrant=True)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.filterwarnings("ignore")
def test_a_forward_pass_that_fills_a_cache_allocates_and_frees_as_on_the_cpu(name: str) -> None:
    """The outputs of a plain loop hold the cache until the step is over."""
    assert_same_events(name, cache=True)
