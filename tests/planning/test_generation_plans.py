"""Advice and plans of generations: the same rungs in the order of harm, and the largest batch and prompt that fit."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import transformers

import inspector
from inspector.errors import UsageError
from inspector.hardware.selection import select_gpus
from inspector.memory.verdict import find_overhead
from inspector.planning.advice import find_advice, list_ways
from inspector.planning.changes import apply_change, format_change
from inspector.planning.ladder import list_groups
from inspector.planning.plan import build_rows
from inspector.predict.predictor import Predictor
from inspector.records.fit import Fit, Method
from inspector.records.hardware import Gpu
from inspector.records.recipe import Recipe
from inspector.records.request import Request
from inspector.resolve import ResolvedRun, resolve_run

FLASH = "--attention flash_attention_2"
PIECES = "--prefill-chunk-size 4096"
CACHE = "--cache fp8"
NF4 = "--quantization nf4 --double-quant"
DECODER = transformers.LlamaConfig(
    architectures=["LlamaForCausalLM"],
    num_hidden_layers=1,
    hidden_size=64,
    intermediate_size=256,
    num_attention_heads=4,
    vocab_size=4_000,
)


def make_run(gpu: Gpu | None = None, request: dict[str, Any] | None = None, **recipe: Any) -> ResolvedRun:
    """Return a generation of a small decoder."""
    given: dict[str, Any] = {"margin": "0", **(request or {})}
    return resolve_run(Request(model=DECODER, workload="generate", recipe=Recipe(**recipe), **given), gpu, {})


def build_card(room_bytes: int) -> Gpu:
    """Return a card with so much memory for the allocator."""
    stated = select_gpus(Request(model="x", gpu_memory=("24GiB",))).gpus[0]
    return dataclasses.replace(stated, memory_bytes=room_bytes + find_overhead(stated).bytes)


def list_offered(asked: ResolvedRun) -> list[tuple[Method | None, list[str]]]:
    """Return what is offered for a run, group by group."""
    groups, last = list_ways(asked, accumulates=True)
    assert not last
    return [(group.method, [format_change(asked.request, rung.change) for rung in group.rungs]) for group in groups]


def test_generations_are_made_smaller_first_by_what_leaves_their_results_as_they_are() -> None:
    """Then by what changes them a little: a cache in float8, weights in 4 bits; then by fewer sequences at a time."""
    own, packed = Method.GENERATE, Method.QUANTIZED_GENERATE
    half = "--batch-size 2"
    assert list_offered(make_run(batch_size=4, prompt_len=8192)) == [
        (own, ["", FLASH]),
        (own, [PIECES, f"{FLASH} {PIECES}"]),
        (own, [CACHE, f"{PIECES} {CACHE}"]),
        (packed, [NF4, f"{PIECES} {NF4}", f"{CACHE} {NF4}", f"{PIECES} {CACHE} {NF4}"]),
        (own, [half, f"{PIECES} {half}", f"{CACHE} {half}", f"{PIECES} {CACHE} {half}"]),
    ]


@pytest.mark.parametrize(
    ("request_", "recipe"),
    [
        ({"quantization": "nf4", "double_quant": True}, {}),
        ({"quantization": "none"}, {}),
        ({"peft": inspector.LoraOptions(r=8)}, {"adapter": "merged"}),
    ],
    ids=["packed already", "not to be packed", "merged"],
)
def test_weights_are_not_packed_twice_nor_against_what_was_asked(
    request_: dict[str, Any], recipe: dict[str, Any]
) -> None:
    offered = list_offered(make_run(None, request_, **recipe))
    assert not [change for _, changes in offered for change in changes if "--quantization" in change]


def test_what_is_advised_of_a_generation_is_what_a_plan_recommends() -> None:
    """On cards as large as the first candidate of each kind takes: the first change that fits for sure."""
    recipe: dict[str, Any] = {"batch_size": 2, "prompt_len": 4200, "new_tokens": 2}
    predictor = Predictor(None)
    asked = make_run(build_card(2**34), **recipe)
    rungs = [rung for group in list_groups(asked, accumulates=True)[:-1] for rung in group.rungs]
    overhead = find_overhead(asked.gpu).bytes
    rooms = sorted({row.total_bytes - overhead for row in build_rows(asked, (), predictor, rungs) if row.total_bytes})
    for room in (rooms[-2],):
        on_card = asked.with_gpu(build_card(room + 2**15))
        rows = build_rows(on_card, (), predictor, rungs)
        fitting = next(row for row in rows if row.outcome is Fit.YES)
        advice, _ = find_advice(on_card, predictor, lambda words: None)
        sure = next(item for item in advice if not item.is_tight)
        assert (sure.change, sure.total_bytes) == (fitting.options, fitting.total_bytes)


def test_shorter_prompts_are_advised_where_nothing_else_fits() -> None:
    predictor = Predictor(None)
    recipe: dict[str, Any] = {"prompt_len": 4000, "new_tokens": 2, "padding": False}
    half = make_run(build_card(2**34), **{**recipe, "prompt_len": 2000})
    room = predictor.predict(half).total_bytes - find_overhead(half.gpu).bytes
    asked = make_run(build_card(room + 2**15), {"quantization": "none"}, **recipe, cache="static")
    advice, _ = find_advice(asked, predictor, lambda words: None)
    assert any("--prompt-len 2000" in item.change for item in advice)


def test_a_plan_of_a_generation_has_the_largest_batch_and_prompt_of_each_candidate() -> None:
    """A batch size that it shows fits, and the next one does not."""
    recipe = inspector.Generation(prompt_len=512, new_tokens=2, padding=False)
    plan = inspector.plan(DECODER, recipe=recipe, gpu_memory="1GiB", margin="0", quantization="none")
    assert plan.quantities == ("batch-size", "prompt-len")
    assert plan.adapter is None
    assert "512 + 2 tokens" in plan.recipe
    assert "The model is made for 2,048 positions, whatever length of a prompt memory holds." in plan.warnings
    first = plan.rows[0]
    assert (first.method, first.options, first.largest_seq_len) == (Method.GENERATE, "", None)
    assert first.largest_batch_size
    assert first.largest_prompt_len
    assert first.largest_prompt_len % 64 == 0
    predictor = Predictor(None)
    gpu = select_gpus(Request(model="x", gpu_memory=("1GiB",))).gpus[0]
    for size, fits in ((first.largest_batch_size, True), (first.largest_batch_size * 102 // 100 + 1, False)):
        own = make_run(gpu, prompt_len=512, new_tokens=2, padding=False, batch_size=size)
        assert (predictor.predict(own).judge().outcome is Fit.YES) is fits


@pytest.mark.parametrize("search", ["fit", "plan"])
@pytest.mark.one_of(2)
def test_the_largest_batch_of_a_long_generation_is_one_with_which_all_its_steps_fit(search: str) -> None:
    """`--fit` used to go down value by value from where the allocated bytes end, and gave up."""
    recipe = inspector.Generation(prompt_len=1024, new_tokens=66, padding=False)
    asked: dict[str, Any] = {"recipe": recipe, "gpu_memory": "1GiB", "margin": "0"}
    if search == "plan":
        found = inspector.plan(DECODER, **asked, fit="batch-size", quantization="none").rows[0].largest_batch_size
    else:
        result = inspector.inspect(DECODER, **asked, fit="batch-size", advice=False).search
        assert result is not None
        assert result.fails is not None
        assert result.value is not None
        found = result.value
        assert result.fails - result.value <= max(found // 50, 1)
    assert found
    predictor = Predictor(None)
    gpu = select_gpus(Request(model="x", gpu_memory=("1GiB",))).gpus[0]
    for size, fits in ((found, True), (found * 104 // 100, False)):
        own = make_run(gpu, prompt_len=1024, new_tokens=66, padding=False)
        own = own.with_request(apply_change(own.request, {"batch_size": size}))
        assert (predictor.predict(own).judge().outcome is Fit.YES) is fits


def test_a_length_that_a_generation_does_not_have_is_that_of_its_prompt() -> None:
    recipe = inspector.Generation(prompt_len=32, new_tokens=1)
    plan = inspector.plan(DECODER, recipe=recipe, gpu_memory="1GiB", fit="seq-len", quantization="none")
    assert plan.quantities == ("prompt-len",)
    with pytest.raises(UsageError, match="is of a generation: search seq-len"):
        inspector.plan(DECODER, gpu_memory="1GiB", fit="prompt-len")
