"""Tapes of scans from few passes of their loops, against those with all passes: equal in every field of every event."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers

from inspector.errors import NotTraceableError
from inspector.extrapolate.positions import extrapolate_positions
from inspector.hardware.selection import select
from inspector.predict.predictor import Predictor
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Request
from inspector.records.tape import Event, EventKind, Phase
from inspector.resolve import resolve_run
from inspector.trace import scan_loops
from inspector.trace.scan_loops import has_scan_loops, shorten_scans
from tests.trace.small_models import COMMON, SMALL

GPU = select(("RTX 4090",), ()).gpus[0]
RECURRENT_GEMMA = {"num_key_value_heads": 1, "lru_width": 64, "attention_window_size": 8, "head_dim": 16}
# A model type with its number of layers, None for that of its row, and what a step of it is otherwise.
CASES: dict[str, tuple[str, int | None, dict[str, Any]]] = {
    "mamba": ("mamba", 3, {"gradient_checkpointing": True}),
    "falcon-mamba": ("falcon_mamba", 1, {"mixed_precision": "bf16"}),
    "jamba": ("jamba", 2, {"gradient_accumulation": 2}),
    "zamba": ("zamba", None, {"optimizer": "sgd"}),
    "rwkv": ("rwkv", 2, {"loop": "plain"}),
    "recurrent-gemma": ("recurrent_gemma", 3, {}),
}


def config(name: str, layers: int | None) -> Any:
    """Return the configuration of a small causal language model."""
    fields = COMMON | (RECURRENT_GEMMA if name == "recurrent_gemma" else SMALL[name].fields)
    made = transformers.AutoConfig.for_model(name, **fields | ({"num_hidden_layers": layers} if layers else {}))
    made.architectures = [f"{type(made).__name__.removesuffix('Config')}ForCausalLM"]
    return made


def predict(predictor: Predictor, request: Request, cards: int = 1) -> tuple[Sequence[Event], int]:
    """Return the tape of a request on the whole model, and how many events were traced for it."""
    run = resolve_run(request, GPU, {}).with_gpu(GPU, cards)
    return list(predictor.predict(run).tape), predictor.count_traced_events(run)


@pytest.fixture(autouse=True)
def foretell_short_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let short loops be foretold as long ones are."""
    monkeypatch.setattr("inspector.predict.scans._SHORTEST", 8)


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_all_its_positions_event_by_event(case: str) -> None:
    """Of any length and batch size: those of each case are drawn by its name."""
    name, layers, fields = CASES[case]
    draw = random.Random(case)
    recipe = Recipe(seq_len=draw.randint(9, 16), batch_size=draw.randint(1, 3), **fields)
    request = Request(model=config(name, layers), recipe=recipe)
    foretold, traced = predict(Predictor(None), request)
    whole, _ = predict(Predictor(None), dataclasses.replace(request, extrapolate=False))
    assert traced < len(whole)
    assert foretold == whole


def test_other_sizes_follow_from_the_passes_of_pieces_alone() -> None:
    """With LoRA, whose step at a second batch size and length needs no second trace of the optimizer."""
    request = Request(model=config("mamba", 2), recipe=Recipe(seq_len=9), peft=LoraOptions(r=4, targets=("x_proj",)))
    predictor = Predictor(None)
    for recipe in (request.recipe, dataclasses.replace(request.recipe, batch_size=2, seq_len=15)):
        resized = dataclasses.replace(request, recipe=recipe)
        whole = dataclasses.replace(resized, extrapolate=False)
        assert predict(predictor, resized)[0] == predict(Predictor(None), whole)[0]


@pytest.mark.filterwarnings("ignore")
def test_a_rank_goes_through_all_positions_event_by_event() -> None:
    request = Request(model=config("mamba", 2), recipe=Recipe(seq_len=11), sharding="fsdp")
    foretold, traced = predict(Predictor(None), request, 2)
    whole, _ = predict(Predictor(None), dataclasses.replace(request, extrapolate=False), 2)
    assert traced < len(whole)
    assert foretold == whole


def test_a_prompt_is_that_of_all_its_positions_event_by_event() -> None:
    request = Request(model=config("mamba", 3), recipe=Recipe(prompt_len=13, new_tokens=3), workload="generate")
    foretold, traced = predict(Predictor(None), request)
    whole, _ = predict(Predictor(None), dataclasses.replace(request, extrapolate=False))
    assert traced < len(whole)
    assert foretold == whole


def test_a_long_scan_takes_the_trace_of_few_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inspector.trace.tracer._MOST_EVENTS", 5_000)
    tape, _ = predict(Predictor(None), Request(model=config("mamba", 3), recipe=Recipe(seq_len=600)))
    assert len(tape) > 30_000


def test_a_scan_whose_passes_stop_is_traced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(model=config("mamba", 2), recipe=Recipe(seq_len=10))

    def refuse(*_arguments: Any) -> None:
        raise NotTraceableError("not with so few")

    monkeypatch.setattr(scan_loops, "_shorten", refuse)
    tape, traced = predict(Predictor(None), request)
    assert traced == len(tape)


def list_passes(passes: int, sizes: Sequence[int] = (), last: int = 8) -> list[Event]:
    """Return a tape of a loop that keeps a block in each pass, of these sizes or 8 bytes, and of what follows it."""
    kept = [*sizes, *[8] * (passes - len(sizes))]
    made = [Event(EventKind.ALLOCATE, block, Phase.FORWARD, size, op="mul") for block, size in enumerate(kept)]
    made.append(Event(EventKind.ALLOCATE, passes, Phase.FORWARD, last, op="stack"))
    freed = reversed(range(passes))
    return [*made, *(Event(EventKind.FREE, block, Phase.BACKWARD, kept[block]) for block in freed)]


def test_what_a_pass_adds_is_repeated_forward_and_backward() -> None:
    template = extrapolate_positions([list_passes(5), list_passes(6), list_passes(7)], 15)
    assert template is not None
    assert list(template.make_tape(template.sizes)) == list_passes(20)


@pytest.mark.parametrize(
    "tapes",
    [
        pytest.param([list_passes(5), list_passes(6), list_passes(6)], id="the third lacks a pass"),
        pytest.param([list_passes(passes, last=8 * passes) for passes in (5, 6, 7)], id="a size grows with the passes"),
        pytest.param(
            [list_passes(passes, sizes=[8 * index for index in range(1, 8)][:passes]) for passes in (5, 6, 7)],
            id="each pass is larger than the one before",
        ),
        pytest.param([list_passes(5), list_passes(6), list_passes(7, sizes=[8] * 6 + [16])], id="the third differs"),
    ],
)
def test_passes_that_are_not_alike_say_nothing(tapes: list[list[Event]]) -> None:
    assert extrapolate_positions(tapes, 15) is None


def test_a_loop_is_shortened_in_its_block_alone_and_what_it_lists_is_complete() -> None:
    model = transformers.MambaForCausalLM(config("mamba", 1))
    assert has_scan_loops(model)
    tokens = torch.zeros((1, 9), dtype=torch.int64)
    whole, lengths = model(tokens).logits, set[int]()
    with shorten_scans(model, 5, lengths):
        short = model(tokens).logits
    assert lengths == {9}
    torch.testing.assert_close(short[:, :5], whole[:, :5])
    assert not torch.allclose(short[:, 5:], whole[:, 5:])
    torch.testing.assert_close(model(tokens).logits, whole)


def loops_twice(count: int) -> list[int]:
    """Go through a range in two loops."""
    found = []
    for index in range(count):
        found.append(index)
    for index in range(count):
        found.append(index)
    return found


def leaves_early(count: int) -> int:
    """Leave a loop before its end."""
    for index in range(count):
        if index > count // 2:
            break
    return index


@pytest.mark.parametrize("function", [loops_twice, leaves_early])
def test_a_function_whose_loop_may_not_be_shortened_runs_as_it_is(function: Any) -> None:
    assert scan_loops._compile(function) is None
