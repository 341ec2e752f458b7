"""The state of every optimizer without a trace equals what a traced step makes of it: two routes to one number."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import transformers

from inspector.hardware.catalogue import find_gpu
from inspector.hardware.platform import build_platform
from inspector.model.build import count_model
from inspector.predict.predictor import Predictor
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Request
from inspector.records.steps.optimizers import OPTIMIZERS
from inspector.records.tape import Category, Event, EventKind
from inspector.resolve import resolve_run
from inspector.workloads.training.state import count_state_bytes
from tests.model.tiny import llama

# A table of 256 float32 for each buffer of an 8-bit optimizer belongs to no parameter.
_TABLE = 1024


def count_living_state(tape: Sequence[Event]) -> int:
    """Return the bytes of optimizer state that is alive when a tape ends."""
    living = {}
    for event in tape:
        if event.category is Category.OPTIMIZER:
            living[event.block] = event.bytes if event.kind is EventKind.ALLOCATE else 0
    return sum(living.values())


@pytest.mark.parametrize(
    ("optimizer", "loop"),
    [*((name, "trainer") for name in OPTIMIZERS), ("adagrad", "plain"), ("adamw_8bit", "plain")],
)
def test_the_state_of_an_optimizer_is_what_a_traced_step_makes(optimizer: str, loop: str) -> None:
    config = llama(vocab_size=640, dtype="float32")  # the embedding has 10,240 elements: 8 bits in a plain loop
    peft = LoraOptions(r=4) if optimizer == "lorafa" else None  # it is for adapters alone
    request = Request(model=config, peft=peft, recipe=Recipe(optimizer=optimizer, loop=loop, seq_len=8))
    run = resolve_run(request, None, {})
    traced = count_living_state(Predictor(None).predict(run).tape)
    tensors = count_model(request, None)[0].trained_tensors
    counted = count_state_bytes(tensors, run.recipe, run.platform)
    for card in ("t4", "h100-sxm", "b200"):
        assert count_state_bytes(tensors, run.recipe, build_platform(find_gpu(card).gpu)) == counted
    assert counted > 0 or optimizer == "sgd"
    assert traced - counted in ((0, _TABLE, 2 * _TABLE) if "8bit" in optimizer else (0,))


@pytest.mark.parametrize("peft", [None, LoraOptions(r=4, targets="all-linear")], ids=["full", "LoRA"])
def test_the_state_of_an_optimizer_that_goes_by_names_is_what_a_traced_step_makes(peft: LoraOptions | None) -> None:
    """Muon's rule looks for `embed`, which the name of GPT-2's table of tokens lacks."""
    config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64, bos_token_id=1, eos_token_id=2)
    config.architectures, config.dtype = ["GPT2LMHeadModel"], "float32"
    request = Request(model=config, peft=peft, recipe=Recipe(optimizer="muon", seq_len=8))
    run = resolve_run(request, None, {})
    traced = count_living_state(Predictor(None).predict(run).tape)
    assert count_state_bytes(count_model(request, None)[0].trained_tensors, run.recipe, run.platform) == traced
