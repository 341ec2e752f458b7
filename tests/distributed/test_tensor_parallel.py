"""Layers that several ranks share each by transformers' plan: which models have one, and how many cards it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from inspector.distributed.tensor_parallel import list_planned_families
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


def test_cards_that_would_have_a_part_of_a_head_are_refused_by_the_number_of_heads() -> None:
    """9 heads, of which each three share one of keys."""
    ran = run(SMALL, "--gpu", "2x4090", "--tensor-parallel", "2", "--offline", "--no-advice")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert "does not divide the 9 attention heads of LlamaForCausalLM" in ran.err


def test_a_model_without_a_plan_is_refused_by_name() -> None:
    ran = run("openai-community/gpt2", "--gpu", "2x4090", "--tensor-parallel", "2", "--offline", "--no-advice")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert "no plan for GPT2LMHeadModel" in ran.err
    planned, _ = list_planned_families()
    assert f"{len(planned)} of its" in ran.err
    assert "such as llama, mistral" in ran.err


@pytest.mark.skipif(transformers.__version__ != "5.23.0", reason="the page lists the families of that release")
def test_the_page_lists_the_families_that_have_a_plan() -> None:
    planned, count = list_planned_families()
    page = (Path(__file__).parents[2] / "docs" / "explain" / "many-gpus.md").read_text(encoding="utf-8")
    assert f"{len(planned)} of {count} folders" in page
    assert ", ".join(planned) in " ".join(page.split())


def ask(model: str, *arguments: str, cards: int = 2) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the JSON of a report on cards that share layers."""
    ran = run(
        *(model, "--gpu", f"{cards}x4090", "--tensor-parallel", str(cards), *arguments),
        *("--seq-len", "16", "--offline", "--no-advice", "--json"),
    )
    return ran.code, json.loads(ran.out)


def test_an_adapter_is_cut_as_its_layers_are() -> None:
    """Of q_proj, 2048 by 2048, a rank has all of A and half of B: 8 x (2048 + 1024) parameters in float32."""
    code, report = ask(UNTIED, "--lora", "r=8", "--targets", "q_proj")
    training = report["training"]
    assert (code, report["parameters"]["trainable"]) == (0, 22 * 8 * (2048 + 2048))
    # AdamW's two states, which take no room beyond what they are.
    assert training["peak"]["breakdown"]["optimizer"] == pytest.approx(22 * 8 * (2048 + 1024) * 4 * 2, rel=0.02)


def test_tied_weights_are_cut_before_they_are_tied() -> None:
    """As `from_pretrained` does it; a rank has a third of 28,311,552 + 106,203,456 parameters, each once."""
    code, report = ask(SMALL, cards=3)
    loaded = report["training"]["phases"][0]["end_allocated_bytes"]
    assert code == 0
    assert loaded == pytest.approx(134_515_008 * 2 / 3, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--lora", "r=8", "--targets", "o_proj"), "PEFT gives lora_A of o_proj, which is cut by rows"),
        (("--lora", "r=8,dora", "--targets", "q_proj"), "plain LoRA alone"),
    ],
)
def test_an_adapter_that_stops_a_real_step_is_not_known_and_named(arguments: tuple[str, ...], words: str) -> None:
    code, report = ask(UNTIED, *arguments)
    assert (code, report["fit"][0]["outcome"]) == (4, "not known")
    assert words in report["fit"][0]["reason"]
