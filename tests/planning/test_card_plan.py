"""`inspect plan --gpus 1-64`: the least number of cards, what each takes, and what no further card takes off."""

from __future__ import annotations

import dataclasses
import functools
import json

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types

from inspector.errors import UsageError
from inspector.hardware.card_counts import read_card_counts
from inspector.planning.ladder import Candidate
from inspector.planning.many_cards.rows import STRATEGIES, Counts, Spread, build_card_rows, spread
from inspector.records.fit import CardCount, Fit, Floor, Lowered, Method, Plan, Scaling
from inspector.records.steps.ranks import Fsdp1
from inspector.records.tape import Category, Phase
from inspector.render.plan import build_plan_document, render_plan_csv, render_plan_json
from tests.cli.running import run
from tests.contracts.json_table import closed, load_schema
from tests.golden.render_plans import PLAN, way
from tests.golden.test_golden import printed, written
from tests.planning.test_fewest_cards import SMALL, make_run

GIB = 2**30
COUNTS = (
    CardCount(count=1, outcome=Fit.NO, peak_allocated_bytes=90 * GIB, total_bytes=92 * GIB, headroom_bytes=-67 * GIB),
    CardCount(count=2, outcome=Fit.NO, peak_allocated_bytes=50 * GIB, total_bytes=52 * GIB, headroom_bytes=-27 * GIB),
    CardCount(count=4, outcome=Fit.TIGHT, peak_allocated_bytes=20 * GIB, total_bytes=23 * GIB, headroom_bytes=GIB),
    CardCount(count=5, outcome=Fit.YES, peak_allocated_bytes=16 * GIB, total_bytes=19 * GIB, headroom_bytes=5 * GIB),
    CardCount(count=8, outcome=Fit.YES, peak_allocated_bytes=10 * GIB, total_bytes=13 * GIB, headroom_bytes=9 * GIB),
)
FLOOR = Floor(
    bytes=5 * GIB,
    parts={Category.LOGITS_AND_LOSS: 3 * GIB, Category.GATHERED: 2 * GIB},
    phase=Phase.FORWARD,
    lowered_by=(Lowered(change="--loss liger", peak_allocated_bytes=7 * GIB),),
)
SHARDED = dataclasses.replace(
    way(Method.FULL, "--gpus 5 --fsdp", "FSDP2", total_bytes=19 * GIB),
    scaling=Scaling(strategy="FSDP2", least=5, counts=COUNTS, floor=FLOOR),
)
WHOLE = dataclasses.replace(
    way(Method.FULL, "", "DDP", total_bytes=92 * GIB),
    scaling=Scaling(
        strategy="DDP",
        least=None,
        counts=(COUNTS[0], COUNTS[1], dataclasses.replace(COUNTS[1], count=8)),
    ),
)
CARDS: Plan = dataclasses.replace(
    PLAN,
    quantities=(),
    gpu_counts=(1, 8),
    rows=(WHOLE, SHARDED, dataclasses.replace(PLAN.rows[4], levers=("FSDP2", "checkpointing"))),
)


def test_a_row_has_the_least_number_that_fits_and_what_every_other_takes() -> None:
    """135 M parameters under AdamW take 1.2 GiB whole: shards fit three such cards and not two."""
    run_of_one, predictor = make_run("1.3GiB", sharding=None, recipe={"seq_len": 16})
    candidate = Candidate(method=Method.FULL, change={}, levers=("adamw_torch_fused",))
    spreads = [Spread(strategy, candidate, spread(run_of_one, strategy)) for strategy in STRATEGIES[:2]]
    whole, sharded = build_card_rows(spreads, Counts(2, 4), predictor)
    assert whole.scaling is not None
    assert sharded.scaling is not None
    assert (whole.scaling.strategy, whole.scaling.least, whole.outcome) == ("DDP", None, Fit.NO)
    least = sharded.scaling.least
    assert least == 3
    assert sharded.options == "--gpus 3 --fsdp"
    found = {item.count: item for item in sharded.scaling.counts}
    assert [found[count].outcome for count in (2, 3, 4)] == [Fit.NO, Fit.YES, Fit.YES]
    assert (sharded.total_bytes, sharded.outcome) == (found[3].total_bytes, Fit.YES)
    for count in (2, 3):
        asked = run_of_one.with_request(dataclasses.replace(run_of_one.request, sharding="fsdp")).with_cards(count)
        assert predictor.predict(asked).peak_allocated_bytes == found[count].peak_allocated_bytes
    floor = sharded.scaling.floor
    assert floor is not None
    assert sum(floor.parts.values()) == floor.bytes < found[4].peak_allocated_bytes
    # What is sharded is no part of it but for padding: shares of 64 MB would be.
    assert sum(floor.parts.get(item, 0) for item in (Category.WEIGHTS, Category.OPTIMIZER)) < 4_000_000
    assert floor.parts[Category.GATHERED] > 0


def test_the_first_fsdp_is_a_strategy_with_its_own_option_and_takes_no_integers() -> None:
    """FSDP1 makes one flat parameter of a unit, which bitsandbytes' uint8 cannot be part of."""
    strategy = next(item for item in STRATEGIES if item.name == "FSDP1")
    assert strategy.option == "--fsdp --fsdp-version 1"
    candidate = Candidate(method=Method.QUANTIZED_ADAPTER, change={}, levers=())
    packed, predictor = make_run("24GiB", quantization="nf4", peft={"peft_type": "LORA"}, sharding=None)
    packed_run = spread(packed, strategy)
    assert isinstance(packed_run.with_cards(2).launch, Fsdp1)
    (refused,) = build_card_rows([Spread(strategy, candidate, packed_run)], Counts(2, 2), predictor)
    assert (refused.refused or "").startswith("FSDP1 flattens weights of floats alone")


def test_packed_weights_are_shown_on_one_card_and_refused_on_several() -> None:
    packed = {"quantization": "nf4", "peft": {"peft_type": "LORA"}, "sharding": None}
    run_of_one, predictor = make_run("24GiB", **packed)
    candidate = Candidate(method=Method.QUANTIZED_ADAPTER, change={}, levers=())
    spreads = [Spread(STRATEGIES[-1], candidate, spread(run_of_one, STRATEGIES[-1]))]
    (alone,) = build_card_rows(spreads, Counts(1, 4), predictor)
    (refused,) = build_card_rows(spreads, Counts(2, 4), predictor)
    assert alone.scaling is not None
    assert (alone.scaling.strategy, alone.scaling.least, refused.scaling) == ("one card", 1, None)
    assert refused.refused == "what each rank takes is not traced yet"


def test_a_plan_says_the_fewest_cards_first_and_then_what_each_takes() -> None:
    text = printed(build_plan_document(CARDS, "recipe"), "txt")
    assert "fits from 5 cards on, 4.50 GiB to spare: --gpus 5 --fsdp" in " ".join(text.split())
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "FSDP2 5 (92.00 GiB) (52.00 GiB) (23.00 GiB) 13.00 GiB" in lines
    # Two cards and eight take the same, and so do four.
    assert "DDP none (92.00 GiB) (52.00 GiB) (52.00 GiB) (52.00 GiB)" in lines
    words = " ".join(" ".join(lines).split())
    assert "5.00 GiB in the forward pass: logits and loss 3.00 GiB, gathered 2.00 GiB" in words
    assert "on 8 cards the peak of 10.00 GiB is lowered by --loss liger (7.00 GiB)" in words


def test_the_json_of_a_plan_of_cards_keeps_to_its_schema_and_the_csv_has_a_line_for_each_number() -> None:
    plan = json.loads(written(functools.partial(render_plan_json, CARDS, "recipe")))
    Draft202012Validator(load_schema("plan")).validate(plan)
    assert plan["gpu_counts"] == [1, 8]
    assert plan["rows"][1]["scaling"]["floor"]["parts"] == {"logits_and_loss": 3 * GIB, "gathered": 2 * GIB}
    lines = written(functools.partial(render_plan_csv, CARDS, "recipe")).splitlines()
    assert lines[0].startswith("strategy,cards,least_cards,method,")
    assert len(lines) == 1 + 3 + 5 + 1
    assert lines[4].startswith("FSDP2,1,5,full,")
    assert closed(load_schema("plan"))["properties"]["rows"]["items"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("given", "ends"), [(1, None), ("1", None), ("8", (8, 8)), ("1-64", (1, 64)), ((2, 4), (2, 4)), (16, (16, 16))]
)
def test_a_plan_is_of_a_number_of_cards_or_of_all_between_two(given: object, ends: object) -> None:
    assert read_card_counts(given) == ends


@pytest.mark.parametrize("given", ["0", "8-2", "1-1000000", 10**6, "many", "1-2-3", (1, 2, 3), 0, None, True, 2.5])
def test_what_is_no_number_of_cards_is_refused_in_one_line(given: object) -> None:
    with pytest.raises(UsageError, match="`gpu_count`"):
        read_card_counts(given)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpus", "1-1000000"), "--gpus is 1,000,000; a plan goes up to 4,096 cards."),
        (("--gpus", "8-1"), "give the smaller number first."),
        (("--gpus", "1-8", "--fit", "seq-len"), "--fit searches on one card"),
        (("--gpus", "1-8", "--gpu", "2x4090"), "--gpus: give one of them."),
    ],
)
def test_a_plan_of_cards_that_contradicts_itself_is_refused(arguments: tuple[str, ...], words: str) -> None:
    card = () if "--gpu" in arguments else ("--gpu", "4090")
    ran = run("plan", SMALL, "--offline", *card, *arguments)
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert words in ran.err
