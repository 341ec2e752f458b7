"""A rank's step under FSDP2 takes what torch's own CUDA code takes.

The figures are of torch 2.13.0's CUDA build over the stand-ins of tests/evidence/stand_in with a stand-in for NCCL:
FSDP2 as accelerate 1.15 wraps a model on meta, transformers 5.23, PEFT 0.21.2, AdamW's foreach kernels, an A100's.
Where a row says so it was run whole there; the others were run with two layers, all with 0 bytes of difference.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types

from inspector.arguments.forms import build_request
from inspector.distributed.run import trace_rank
from inspector.distributed.world import begin_world
from inspector.hardware.platform import Platform
from inspector.memory.timeline import fold
from inspector.model.build import build_whole
from inspector.records.steps.ranks import Fsdp2
from inspector.source.read import read_files
from inspector.workloads.registry import TRAINING, load_workload
from inspector.workloads.training import loops
from tests.cli.running import run
from tests.contracts.json_table import closed, load_schema
from tests.planning.test_fewest_cards import SMALL, make_run

LLAMA = "meta-llama/Llama-3.1-8B"
LORA = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"}
# World size, LoRA, mixed precision, micro-batches -> allocated, reserved. One row of 2,048 tokens, checkpointing.
ROWS = [
    (8, None, "bf16", 1, 20_092_595_200, 29_037_166_592),  # whole
    (8, LORA, "no", 1, 7_405_459_456, 10_838_081_536),  # whole
    (8, None, "bf16", 2, 33_458_236_416, None),
    (2, None, "no", 1, 40_178_465_792, 48_073_015_296),
    (8, None, "no", 1, 11_374_460_928, 16_041_115_648),
    (64, None, "no", 1, 6_111_263_232, 10_282_336_256),
    (2, None, "bf16", 1, 80_319_155_200, 88_709_529_600),
    (64, None, "bf16", 1, 6_857_751_040, 11_037_310_976),
    (2, LORA, "no", 1, 13_617_423_360, 17_152_606_208),
    (64, LORA, "no", 1, 5_610_460_672, 9_011_462_144),
]
CHOSEN = ROWS if os.environ.get("INSPECTOR_TRUTH") == "all" else ROWS[:2]


class Undivided:
    """A number that stays as it is where it is divided."""

    def __init__(self, number: object) -> None:
        self.number = number

    def __truediv__(self, _by: int) -> object:
        return self.number


def trace(monkeypatch: pytest.MonkeyPatch, world_size: int, peft: object = None, **recipe: object) -> tuple[int, int]:
    """Return the peaks of allocated and reserved bytes of a rank of Llama-3.1-8B."""
    settings = {"seq_len": 2048, "gradient_checkpointing": True, "optimizer": "adamw_torch", **recipe}
    request, _ = build_request(model=LLAMA, peft=peft, recipe=settings, dtype="bfloat16", offline=True)
    built = build_whole(request, read_files(request, lambda _stage: None))
    workload = load_workload(TRAINING)
    settled = workload.resolve(built.model, request.recipe)
    launch = Fsdp2(world_size=world_size, comes_from_host=False)
    # The loop of those runs counted its labels on its own rank, and divided their number by nothing.
    monkeypatch.setattr(loops, "_add_up_over_ranks", lambda number, _ranks: Undivided(number))
    timeline = fold(trace_rank(workload, built, settled, Platform(torch_version=(2, 13)), launch))
    return timeline.peak_allocated_bytes, timeline.peak_reserved_bytes


@pytest.mark.parametrize(("size", "peft", "precision", "accumulation", "allocated", "reserved"), CHOSEN)
def test_a_rank_takes_what_torchs_cuda_code_takes(
    size: int,
    peft: object,
    precision: str,
    accumulation: int,
    allocated: int,
    reserved: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """0 bytes off, allocated and reserved; with two micro-batches whole gradients stay."""
    found = trace(monkeypatch, size, peft=peft, mixed_precision=precision, gradient_accumulation=accumulation)
    assert found[0] == allocated
    assert reserved is None or found[1] == reserved


def ask(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the JSON of a report."""
    ran = run(*arguments, "--fsdp", "--seq-len", "64", "--offline", "--no-advice", "--json")
    return ran.code, ran.report


def test_a_report_is_of_the_rank_that_takes_most_and_says_so() -> None:
    """Of 7 ranks 6 hold as many rows of each parameter: 576 = 6 x 83 + 78 of the narrowest, 49,152 of the widest."""
    code, report = ask(SMALL, "--gpu", "7x4090")
    training, (verdict,) = report["training"], report["fit"]
    assert code == 0
    assert training["ranks"] == verdict["cards"]["ranks"]
    assert training["ranks"]["strategy"].startswith("FSDP2 as accelerate")
    assert (training["ranks"]["world_size"], training["ranks"]["rank"], training["ranks"]["alike"]) == (7, 0, 6)
    breakdown = training["peak"]["breakdown"]
    assert sum(breakdown.values()) == training["peak_allocated_bytes"]
    assert breakdown["gathered"] > 0
    assert breakdown["communication"] > 0
    assert [item["what"] for item in verdict["uncertainty"]][-1] == "NCCL"
    assert "several-gpus" not in [warning["code"] for warning in report["warnings"]]
    Draft202012Validator(closed(load_schema())).validate(report)


def test_layers_of_a_rank_are_extrapolated_to_the_same_events() -> None:
    """As on one card: two shallow ranks say what the whole one does, streams included."""
    run_of_rank, predictor = make_run("24GiB")
    run_of_rank = run_of_rank.with_cards(3)
    whole = predictor.findings.trace(run_of_rank, None).tape
    extrapolated = predictor.predict(run_of_rank)
    assert len(extrapolated.template.traced) < len(whole)
    assert list(extrapolated.tape) == whole


def test_what_has_no_traced_rank_is_judged_on_one_card_alone() -> None:
    code, report = ask(SMALL, "--gpu", "2x4090", "--quantization", "int8", "--lora", "r=8")
    assert (code, "ranks" in report["training"]) == (0, False)
    assert "several-gpus" in [warning["code"] for warning in report["warnings"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "2x4090", "--fsdp", "--fit", "gpus"), "searches the number of cards of one kind"),
        (("--gpu", "4090", "--fit", "gpus"), "add --fsdp, or drop --fit."),
        (("--gpu", "4090", "--gpu", "t4", "--fsdp", "--fit", "gpus"), "searches the number of cards of one kind"),
        (("--fsdp", "--fit", "gpus"), "says what fits a GPU"),
    ],
)
def test_a_number_of_cards_is_searched_for_sharded_runs_on_one_kind_of_card(
    arguments: tuple[str, ...], words: str
) -> None:
    ran = run(SMALL, "--offline", *arguments)
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert words in ran.err


def test_an_optimizer_that_asks_a_ranks_stream_for_graphs_gets_an_answer() -> None:
    """Where torch is built for CUDA its optimizers ask, and `inspect MODEL --fsdp` stopped there."""
    with begin_world(2, 0):
        assert torch.accelerator.current_stream().is_capturing() is False


def test_a_rank_runs_with_flash_attention_as_one_card_does(monkeypatch: pytest.MonkeyPatch) -> None:
    flash, plain = (
        trace(monkeypatch, 2, batch_size=1, seq_len=64, attention=name)[0] for name in ("flash_attention_2", "eager")
    )
    assert flash <= plain


def test_where_shards_would_fit_that_each_card_has_not_room_for_whole_the_report_says_so() -> None:
    """Full fine-tuning of 135 M parameters: DDP keeps all states and buckets on each card."""
    cards = ("--gpu-memory", "1.6GiB", "--gpus", "4", "--margin", "0MiB")
    # As it is asked for, few other changes are tried.
    step = ("--seq-len", "64", "--attention", "flash_attention_2", "--gradient-checkpointing", "--quantization", "none")
    ran = run(SMALL, *cards, *step, "--offline", "--json")
    verdict = json.loads(ran.out)["fit"][0]
    assert (ran.code, verdict["outcome"]) == (1, "no")
    assert verdict["cards"]["ranks"]["strategy"].startswith("DDP")
    assert verdict["advice"][0]["change"] == "--fsdp"
    sharded = run(SMALL, *cards, *step, "--offline", "--fsdp", "--no-advice", "--json")
    assert sharded.code == 0


@pytest.mark.parametrize(
    ("model", "reason"),
    [("google-t5/t5-small", "share a weight"), ("google/vit-base-patch16-224", "shards the input embeddings twice")],
)
def test_a_model_whose_rank_stops_is_not_known_and_no_defect(model: str, reason: str) -> None:
    ran = run(model, "--gpu", "2x4090", "--fsdp", "--offline", "--no-advice", "--json")
    (verdict,) = json.loads(ran.out)["fit"]
    assert (ran.code, verdict["outcome"]) == (4, "not known")
    assert reason in verdict["reason"]


def test_an_optimizer_that_is_none_of_torchs_own_has_no_known_step_on_shards() -> None:
    """A real step with Adafactor stops: it adds plain tensors to shards."""
    ran = run(SMALL, "--gpu", "2x4090", "--fsdp", "--optimizer", "adafactor", "--seq-len", "64", "--offline", "--json")
    (verdict,) = json.loads(ran.out)["fit"]
    assert (ran.code, verdict["outcome"]) == (4, "not known")
    assert "how Adafactor updates shards is not known" in verdict["reason"]
