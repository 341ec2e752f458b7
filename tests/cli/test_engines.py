"""`--engine`: one screen, exit codes as of verdicts, and options that do not go together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.source.gguf.gguf_files import write_model

from .running import assert_refused, run

QWEN = "Qwen/Qwen3-8B"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("vllm", "--gpu", "a100-80gb", "--max-model-len", "32K", "--max-num-seqs", "8"),
            0,
            "8 requests of 32,768 tokens",
        ),
        (("vllm", "--gpu", "4090", "--max-model-len", "32k", "--max-num-seqs", "8"), 0, "tight, it starts; of 8"),
        (("vllm", "--gpu", "t4", "--max-model-len", "4096"), 1, "no, "),
        (
            ("vllm", "--gpu-memory", "24GiB", "--max-model-len", "16K", "--kv-cache-memory-bytes", "4G"),
            0,
            "1.77 of full",
        ),
        (("sglang", "--gpu", "h100", "--context-length", "32768", "--max-running-requests", "8"), 0, "8 requests"),
        (("vllm",), 0, "--gpu NAME shows what goes off one card"),
    ],
)
def test_a_chat_server_of_qwen3_8b_is_answered_on_one_screen(arguments: tuple[str, ...], code: int, said: str) -> None:
    """At most 28 lines of 80 columns; 0 where it fits, 1 where it does not."""
    result = run("--offline", QWEN, "--engine", *arguments)
    assert result.code == code, result.err
    assert said in " ".join(result.out.split())
    lines = result.out.splitlines()
    assert len(lines) <= 28
    assert max(map(len, lines)) <= 80


def test_four_cards_and_a_notice_stay_on_one_screen() -> None:
    """What goes off the first card is summed up where there is no room for it."""
    cards = [part for name in ("h100", "a100-80gb", "h200", "b200") for part in ("--gpu", name)]
    result = run("--offline", "openai/gpt-oss-20b", "--engine", "vllm", *cards, "--max-num-seqs", "2000")
    assert result.code == 0
    assert len(result.out.splitlines()) <= 28, result.out
    assert "5 more" in result.out


@pytest.mark.parametrize(
    ("arguments", "outcome", "changes"),
    [
        (
            ("vllm", "--gpu", "a100-40gb", "--max-model-len", "32K", "--max-num-seqs", "8"),
            "tight",
            {"--kv-cache-dtype fp8", "--max-num-seqs 4", "--tensor-parallel-size 2"},
        ),
        (
            ("sglang", "--gpu", "a100-40gb", "--context-length", "32768", "--max-running-requests", "8"),
            "tight",
            {"--max-running-requests 3", "--tensor-parallel-size 2"},
        ),
        (("vllm", "--gpu", "2xt4", "--tensor-parallel-size", "2"), "not known", {"--tensor-parallel-size 4"}),
        (("vllm", "--gpu", "a100-80gb", "--max-model-len", "32K"), "yes", set()),
    ],
)
def test_what_is_no_sure_yes_says_what_makes_it_one(
    arguments: tuple[str, ...], outcome: str, changes: set[str]
) -> None:
    """Each change was tried by the engine's rules: asked for, it is a yes."""
    verdict = json.loads(run("--offline", QWEN, "--engine", *arguments, "--json").out)["serving"]["verdicts"][0]
    assert verdict["outcome"] == outcome
    advised = {item["change"]: item["reason"] for item in verdict["advice"]}
    assert changes <= set(advised)
    assert bool(advised) is bool(changes)
    options = next((change for change in advised if "--max-model-len" in change or "--context-length" in change), None)
    if options is not None:
        name, length = options.split()
        kept = [item for item in arguments if item not in (name, "32K", "32768")]
        again = run("--offline", QWEN, "--engine", *kept, name, length, "--json").report["serving"]["verdicts"][0]
        assert (again["outcome"], again["reason"]) == ("yes", advised[options])


def test_no_advice_is_none_and_each_of_several_cards_is_said() -> None:
    report = json.loads(run("--offline", QWEN, "--engine", "vllm", "--gpu", "t4", "--no-advice", "--json").out)
    assert "advice" not in report["serving"]["verdicts"][0]
    text = run("--offline", QWEN, "--engine", "vllm", "--gpu", "2xt4", "--tensor-parallel-size", "2").out
    assert "each T4, for the engine" in text


def test_what_only_the_machine_decides_is_exit_code_4() -> None:
    """Between the ends of the budget nothing says whether it starts."""
    result = run("--offline", QWEN, "--engine", "vllm", "--gpu-memory", "23500MiB", "--max-model-len", "32K")
    assert result.code == 4
    assert "nothing says whether vllm serves it on the" in result.err


def test_a_gguf_on_a_24_gb_card_is_answered_on_one_screen(tmp_path: Path) -> None:
    """Where it is too large, how many layers to try."""
    path = str(write_model(tmp_path / "qwen3-8b-Q4_K_M.gguf"))
    fits = run(path, "--engine", "llama.cpp", "--gpu", "4090", "--ctx-size", "32768", "--parallel", "8")
    assert fits.code == 0, fits.err
    assert "to spare at least" in fits.out
    assert len(fits.out.splitlines()) <= 28
    small = run(path, "--engine", "llama.cpp", "--gpu-memory", "6GiB", "--ctx-size", "8192")
    assert small.code == 1
    assert "try --n-gpu-layers" in " ".join(small.out.split())
    assert_refused(run(path, "--engine", "llama.cpp", "--gpu", "2x4090"), 2, "no rule here spreads llama.cpp; give one")
    report = run(path, "--engine", "llama.cpp", "--json").report
    assert report["parameters"]["base"] == 8_190_726_144
    assert report["serving"]["weights_bytes"]["low"] < report["checkpoint"]["bytes"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--engine", "vllm", "--ctx-size", "4096"), 2, "an option of llama.cpp, not of vllm: give --max-model-len."),
        (("--max-model-len", "4096"), 2, "is an option of a serving engine: add --engine vllm, or drop it."),
        (("--engine", "vllm", "--gpu-memory-utilization", "1.2"), 2, "give a number above 0 and up to 1"),
        (("--engine", "vllm", "--gpu-memory-utilization", "nan"), 2, "give a finite number"),
        (("--engine", "vllm", "--max-model-len", "0"), 2, "give an integer of at least 1"),
        (("--engine", "vllm", "--max-model-len", "1e9"), 2, "'1e9' is no integer"),
        (("--engine", "vllm", "--max-model-len", "1.5K"), 2, "'1.5K' has decimals, which only k, m, g and t take"),
        (("--engine", "vllm", "--max-model-len", "200k"), 2, "more than the 40960 positions"),
        (("--engine", "vllm", "--max-num-seqs", "4000"), 2, "give --max-num-batched-tokens 4000, too"),
        (("--engine", "vllm", "--kv-cache-dtype", "int2"), 2, "has no rule here for vllm"),
        (("--engine", "vllm", "--tensor-parallel-size", "2000"), 2, "give at most 1024"),
        (("--engine", "vllm", "--lora", "r=8"), 2, "an adapter has no effect with --engine: leave it out, or merge it"),
        (("--engine", "vllm", "--batch-size", "8"), 2, "--batch-size has no effect with --engine"),
        (("--engine", "vllm", "--fit", "batch-size", "--gpu", "4090"), 2, "--fit has no effect with --engine"),
        (("--engine", "vllm", "--gpu", "2x4090"), 2, "give --tensor-parallel-size 2, or one card"),
        (("--engine", "llama.cpp"), 3, "llama.cpp reads GGUF alone"),
        (("--engine", "tgi"), 2, "'tgi' is not one of"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(arguments: tuple[str, ...], code: int, said: str) -> None:
    """The line names the option and what to give instead."""
    assert_refused(run("--offline", QWEN, *arguments), code, said)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("google-t5/t5-small", "no rule of an engine here counts its cache"),
        ("google-bert/bert-base-uncased", "generates nothing"),
    ],
)
def test_a_model_that_no_engine_here_serves_is_exit_code_4(model: str, said: str) -> None:
    """By name, with what to drop."""
    assert_refused(run("--offline", model, "--engine", "vllm"), 4, said)


def test_a_gguf_without_an_engine_says_which_reads_it(tmp_path: Path) -> None:
    """A training step has no use for it; vLLM reads checkpoints of transformers."""
    path = str(write_model(tmp_path / "m.gguf"))
    assert_refused(run(path), 3, "add --engine llama.cpp")
    assert_refused(run(path, "--engine", "vllm"), 3, "add --engine llama.cpp")
