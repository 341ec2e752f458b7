"""Which changes are offered for a request, in which order, and what they do to it; that advice and plan agree."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
import transformers

from inspector.hardware.selection import select_gpus
from inspector.memory.verdict import find_overhead
from inspector.planning.advice import find_advice, list_ways
from inspector.planning.changes import apply_change, format_change, format_options
from inspector.planning.ladder import list_groups
from inspector.planning.plan import build_rows
from inspector.predict.predictor import Predictor
from inspector.records.fit import Fit, Method, Plan, find_recommended
from inspector.records.hardware import Gpu
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Request
from inspector.records.source import ServedFrom, SourceFiles
from inspector.resolve import ResolvedRun, resolve_run

FUSED = "--optimizer adamw_torch_fused"
CHECKPOINTING = "--gradient-checkpointing"
FLASH = "--attention flash_attention_2"
EIGHT_BIT = "--optimizer adamw_8bit"
PAGED = "--optimizer paged_adamw_8bit"
ADAFACTOR = "--optimizer adafactor"
LORA = "--lora r=16 --targets all-linear"
NF4 = "--quantization nf4 --double-quant"
DTYPE = "--no-autocast-adapter-dtype"
ADAPTER = LoraOptions(r=8)


def files(**fields: Any) -> SourceFiles:
    """Return the files of a repository; `adapter_config` makes it an adapter's."""
    adapter = fields.pop("adapter_config", None)
    return SourceFiles(id="x", served_from=ServedFrom.LOCAL, config=fields, adapter_config=adapter)


def run(request: Request, source: SourceFiles | None) -> ResolvedRun:
    """Return the run of a request."""
    return dataclasses.replace(resolve_run(request, None, {}), files=source)


def offered(source: SourceFiles | None = None, *, accumulates: bool = True, **fields: Any) -> list[list[str]]:
    """Return what is offered for a request, as options, group by group; nothing is the request as it is."""
    request = Request(model="x", **fields)
    groups, _ = list_ways(run(request, source), accumulates=accumulates)
    return [[format_change(request, rung.change) for rung in group.rungs] for group in groups]


def test_full_fine_tuning_is_made_smaller_before_something_else_is_trained() -> None:
    """Adapters come last: LoRA, in the dtype of its base too, then on a base of 4 bits."""
    both = f"{CHECKPOINTING} {FLASH}"
    full, adapter, packed = offered(files())
    assert full == [
        *("", CHECKPOINTING, FLASH, both, EIGHT_BIT, f"{CHECKPOINTING} {EIGHT_BIT}", f"{both} {EIGHT_BIT}"),
        *(f"{CHECKPOINTING} {PAGED}", f"{CHECKPOINTING} {ADAFACTOR}"),
    ]
    assert adapter == [
        f"{LORA} {change}".strip()
        for change in (
            *("", CHECKPOINTING, FLASH, both, EIGHT_BIT, f"{CHECKPOINTING} {EIGHT_BIT}"),
            *(DTYPE, f"{CHECKPOINTING} {DTYPE}"),
        )
    ]
    assert packed[:3] == [f"{LORA} {NF4}", f"{LORA} {NF4} {FLASH}", f"{LORA} {NF4} {PAGED}"]


@pytest.mark.parametrize("named", [False, True], ids=["asked for", "named"])
def test_an_adapter_is_made_smaller_in_the_order_of_harm(named: bool) -> None:
    """Whether it was asked for or the repository is one; whoever has the foreach optimizer may keep it."""
    source = files(adapter_config={"peft_type": "LORA"}) if named else files()
    recipe = Recipe(batch_size=8, gradient_accumulation=2, optimizer="adamw_torch")
    adapter, packed = offered(source, peft=None if named else ADAPTER, recipe=recipe)
    assert adapter[:4] == ["", FUSED, CHECKPOINTING, f"{CHECKPOINTING} {FUSED}"]
    accumulated = "--batch-size 1 --gradient-accumulation 16"
    places = [adapter.index(change) for change in (accumulated, f"{CHECKPOINTING} {accumulated}", EIGHT_BIT, DTYPE)]
    assert places == sorted(places)
    assert packed[0] == NF4


def test_a_frozen_base_in_float32_is_offered_in_the_half_precision_that_it_is_stored_in() -> None:
    """Under autocast alone, and not where it is trained: then float32 is what it learns in."""
    half = files(dtype="bfloat16")
    asked: dict[str, Any] = {"dtype": "float32", "recipe": Recipe(mixed_precision="bf16", gradient_checkpointing=True)}
    adapter, _ = offered(half, peft=ADAPTER, **asked)
    assert adapter[:4] == ["", FLASH, "--dtype bfloat16", EIGHT_BIT]
    full, adapter, _ = offered(half, **asked)
    assert f"{LORA} --dtype bfloat16" in adapter
    others = [offered(half, peft=ADAPTER, **asked | other) for other in ({"recipe": Recipe()}, {"dtype": "bfloat16"})]
    others += [[full], offered(files(dtype="float32"), peft=ADAPTER, **asked)]
    assert not any("--dtype" in change for groups in others for group in groups for change in group)


def test_a_batch_of_one_is_not_offered_where_sequences_have_to_do_with_each_other() -> None:
    recipe = Recipe(batch_size=8)
    assert any("--gradient-accumulation" in change for group in offered(files(), recipe=recipe) for change in group)
    alone = offered(files(), recipe=recipe, accumulates=False)
    assert not [change for group in alone for change in group if "--gradient-accumulation" in change]


def test_what_is_there_already_is_not_offered_again() -> None:
    """Nor an AdamW in 8 bits for what is no AdamW."""
    recipe = Recipe(gradient_checkpointing=True, optimizer="sgd", attention="flash_attention_2")
    lora: dict[str, Any] = {"peft": ADAPTER, "autocast_adapter_dtype": False}
    assert offered(files(), **lora, recipe=recipe) == [[""], [NF4]]
    packed: dict[str, Any] = {"peft": ADAPTER, "quantization": "nf4", "recipe": recipe}
    assert offered(files(), **packed) == [["--double-quant"]]
    assert offered(files(), **packed, double_quant=False) == [[""], ["--double-quant"]]
    packed |= {"quantization": "fp4", "double_quant": True}
    assert offered(files(), **packed) == [[""]]
    assert offered(files(), peft=ADAPTER, quantization="int8", recipe=recipe) == [[""], [NF4]]


def test_a_checkpoint_that_is_quantized_is_not_quantized_again() -> None:
    """Whatever packed it."""
    source = files(quantization_config={"quant_method": "gptq"})
    recipe = Recipe(gradient_checkpointing=True, optimizer="sgd", attention="flash_attention_2")
    assert offered(source, peft=ADAPTER, recipe=recipe) == [["", DTYPE]]
    assert offered(source, recipe=recipe) == [[LORA, f"{LORA} {DTYPE}"]]


def test_checkpointing_that_the_preparation_switches_on_is_not_offered() -> None:
    packed: dict[str, Any] = {"peft": ADAPTER, "quantization": "nf4", "double_quant": True}
    assert CHECKPOINTING not in offered(files(), **packed)[0]
    off = Recipe(gradient_checkpointing=False)
    assert CHECKPOINTING in offered(files(), **packed, recipe=off)[0]


def test_weights_are_unpacked_as_a_last_resort() -> None:
    request = Request(model="x", peft=ADAPTER, quantization="nf4", double_quant=True)
    ways, last = list_ways(run(request, files()), accumulates=True)
    assert [group.method for group in ways] == [Method.QUANTIZED_ADAPTER]
    assert (
        format_change(request, last[0].rungs[1].change) == f"{CHECKPOINTING} without --quantization and --double-quant"
    )


def test_a_suggested_change_applies_to_the_request_and_to_its_recipe() -> None:
    """Each field where it belongs, the others as they were; what 4-bit weights need of the adapter is part of it."""
    request = Request(model="x", autocast_adapter_dtype=False, recipe=Recipe(batch_size=4))
    packed = list_groups(run(request, files()), accumulates=True)[-1]
    rung = next(
        rung for rung in packed.rungs if "batch size 1, accumulated" in rung.levers and "paged" in rung.levers[-1]
    )
    made = apply_change(request, rung.change)
    assert made.recipe == Recipe(batch_size=1, gradient_accumulation=4, optimizer="paged_adamw_8bit")
    assert (made.quantization, made.double_quant, made.autocast_adapter_dtype) == ("nf4", True, True)
    assert made.peft == LoraOptions(r=16, targets="all-linear")
    assert format_options(rung.change).endswith("--batch-size 1 --gradient-accumulation 4 --optimizer paged_adamw_8bit")


def test_the_first_that_fits_for_sure_is_recommended_and_else_the_first_that_fits_tightly() -> None:
    assert find_recommended([Fit.NO, None, Fit.TIGHT, Fit.YES, Fit.YES]) == 3
    assert find_recommended([Fit.NO, Fit.TIGHT, None, Fit.TIGHT]) == 1
    assert find_recommended([Fit.NO, None]) is None
    behind = (pytest.fail("asked for what lies behind") for _ in range(1))
    assert find_recommended(outcome for part in ([Fit.YES], behind) for outcome in part) == 0


# --- what `inspect` advises is what `inspect plan` recommends ---------------------------------------------------------

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "vocab_size": 4_000}
DECODER = transformers.LlamaConfig(architectures=["LlamaForCausalLM"], num_hidden_layers=1, **SIZES)
ENCODER = transformers.BertConfig(architectures=["BertModel"], num_hidden_layers=1, **(SIZES | {"vocab_size": 40_000}))
WITH_LORA = {"peft": LoraOptions(r=16, targets="all-linear")}
# How each method is asked for, and the options that a plan has for it.
METHODS: dict[Method, tuple[dict[str, Any], str]] = {
    Method.FULL: ({}, ""),
    Method.ADAPTER: (WITH_LORA, LORA),
    Method.QUANTIZED_ADAPTER: ({**WITH_LORA, "quantization": "nf4", "double_quant": True}, f"{LORA} {NF4}"),
}


def build_card(room_bytes: int) -> Gpu:
    """Return a card with so much memory for the allocator."""
    stated = select_gpus(Request(model="x", gpu_memory=("24GiB",))).gpus[0]
    return dataclasses.replace(stated, memory_bytes=room_bytes + find_overhead(stated).bytes)


def plan_rows(asked: ResolvedRun, predictor: Predictor) -> Plan:
    """Return the plan of a run, without searches."""
    groups = list_groups(asked, accumulates=predictor.find_dependence(asked) is None)
    rows = build_rows(asked, (), predictor, [rung for group in groups for rung in group.rungs])
    empty: dict[str, Any] = {"versions": {}, "model": "", "gpu": "", "recipe": "", "adapter": ""}
    return Plan(**empty, memory_bytes=0, usable_bytes=0, margin_bytes=0, rows=rows)


CASES = [
    pytest.param(DECODER, None, (2, -1) if os.environ.get("INSPECTOR_TRUTH") == "all" else (2,), id="decoder"),
    pytest.param(ENCODER, "none", (3,), id="encoder with in-batch negatives"),
]


@pytest.mark.parametrize(("config", "quantization", "places"), CASES)
def test_what_is_advised_is_what_a_plan_recommends(
    config: Any, quantization: str | None, places: tuple[int, ...]
) -> None:
    """For each method the same changes at the same total, or both say that nothing of it fits.

    The cards are as large as some of the candidates take, with a little room that is kept free, or with the margin.
    """
    request = Request(model=config, margin="0", quantization=quantization, recipe=Recipe(batch_size=2, seq_len=64))
    predictor = Predictor(None)
    asked = resolve_run(request, build_card(2**34), {})
    totals = sorted({row.total_bytes for row in plan_rows(asked, predictor).rows if row.total_bytes})
    for place in places:
        room = totals[place] - find_overhead(asked.gpu).bytes
        margin, more = ("0", 2**15) if place > 0 else (None, 2**15)
        on_card = asked.with_gpu(build_card(room + more)).with_request(dataclasses.replace(request, margin=margin))
        assert_agreement(on_card, plan_rows(on_card, predictor), predictor)


def assert_agreement(asked: ResolvedRun, plan: Plan, predictor: Predictor) -> None:
    """Hold the advice for each method against what the plan recommends."""
    recommended = {method: row for method in Method if (row := plan.recommend(method)) is not None}
    order = tuple(Method)
    for method, (fields, prefix) in METHODS.items():
        if fields.get("quantization") and asked.request.quantization == "none":
            continue
        own = asked.with_request(dataclasses.replace(asked.request, **fields))
        prediction = predictor.predict(own)
        outcome = prediction.judge().outcome
        if outcome is Fit.YES:
            assert (recommended[method].options, recommended[method].total_bytes) == (prefix, prediction.total_bytes)
            continue
        later = [(found, row) for found, row in recommended.items() if order.index(found) >= order.index(method)]
        if method is Method.QUANTIZED_ADAPTER and not any(row.outcome is Fit.YES for _, row in later):
            later += [(found, row) for found, row in recommended.items() if found is Method.ADAPTER]
        expected = [row.total_bytes for _, row in later if row.outcome is Fit.YES or outcome is Fit.NO]
        advice, _ = find_advice(own, predictor, lambda words: None)
        free = [item for item in advice if item.is_tight and item.change == "--alloc-conf expandable_segments:True"]
        same_size = [item for item in advice if "--seq-len" not in item.change and item.but is None]
        assert expected in (
            [item.total_bytes for item in same_size],
            [item.total_bytes for item in same_size[len(free) :]],
        )
        own_row = recommended.get(method)
        if own_row is not None and own_row.outcome is Fit.YES:
            assert own_row.options.removeprefix(prefix).strip() in [item.change for item in advice]
