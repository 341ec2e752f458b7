"""Layers that several ranks share each by transformers' plan: which models have one, and how many cards it takes."""

from __future__ import annotations

import json

import pytest

from tests.cli.running import run
from tests.planning.test_fewest_cards import SMALL

UNTIED = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"


def test_a_report_says_what_each_of_the_ranks_takes_that_share_the_layers() -> None:
    reports = []
    for arguments in (("--gpu", "4090"), ("--gpu", "2x4090", "--tensor-parallel", "2")):
        ran = run(UNTIED, *arguments, "--seq-len", "16", "--offline", "--no-advice", "--json")
        assert ran.code in (0, 1), ran.err
        reports.append(json.loads(ran.out)["training"])
    cut = reports[1]
    assert cut["ranks"]["strategy"].startswith("tensor parallel over 2 by the plan of transformers")
    assert (cut["ranks"]["world_size"], cut["ranks"]["alike"]) == (2, 2)
    loaded = [report["phases"][0]["end_allocated_bytes"] for report in reports]
    assert loaded[1] == pytest.approx(loaded[0] / 2, rel=0.07)  # the allocator leaves up to 1 MiB of a block


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "3x4090", "--tensor-parallel", "2"), "does not divide the number of cards, 3"),
        (("--gpu", "4090", "--tensor-parallel", "2"), "does not divide the number of cards, 1"),
        (("--gpu", "4x4090", "--tensor-parallel", "2"), "leaves 2 groups of cards: add --fsdp"),
        (("--gpu", "2x4090", "--tensor-parallel", "2", "--device-map", "auto"), "give one of them"),
    ],
)
def test_cards_that_layers_cannot_be_cut_over_are_refused_in_one_line(arguments: tuple[str, ...], words: str) -> None:
    ran = run(SMALL, *arguments, "--offline")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert words in ran.err


def test_a_model_without_a_plan_is_refused_by_name() -> None:
    ran = run("openai-community/gpt2", "--gpu", "2x4090", "--tensor-parallel", "2", "--offline", "--no-advice")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert "no plan for GPT2LMHeadModel" in ran.err


def test_an_adapter_on_layers_that_are_cut_is_not_traced_and_said_so() -> None:
    ran = run(
        UNTIED, "--gpu", "2x4090", "--tensor-parallel", "2", "--lora", "r=8", "--seq-len", "16", "--offline", "--json"
    )
    assert "several-gpus" in [warning["code"] for warning in json.loads(ran.out)["warnings"]]
