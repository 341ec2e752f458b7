"""Recipes that the real stack refuses end with code 2 and one line that says what to change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .running import SMALL, assert_refused, run, written


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--batch-size", "0"], "--batch-size"),
        (["--use-reentrant"], "add --gradient-checkpointing"),
        (["--attention", "flash_attention_2", "--dtype", "float32"], "float16 and bfloat16, not float32; add --dtype"),
        (["--attention", "flash_attention_2", "--gpu", "t4"], "has 7.5; use --attention sdpa"),
        (["--alloc-conf", "expandable_segments:yes"], "--alloc-conf: allocator setting expandable_segments needs"),
        (["--alloc-conf", "max_split_size_mb:1"], "at least 20"),
        (["--alloc-conf", "backend:cudaMallocAsync"], "cannot be simulated"),
        (["--alloc-conf", "roundup_power2_divisions:3"], "power of two"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused(options: list[str], says: str) -> None:
    assert_refused(run(SMALL, "--offline", *options), 2, says)


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_bad_settings_of_the_environment_are_named_as_torch_would_refuse_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "max_split_size:512")
    assert_refused(run(SMALL, "--offline"), 2, f"{name}: unknown allocator setting 'max_split_size'")


def test_counting_alone_does_not_ask_for_the_allocators_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size:512")
    assert run(SMALL, "--offline", "--count-only").code == 0


def test_a_model_whose_attention_is_not_flash_attns_is_refused() -> None:
    """gpt-oss has kernels of its own, which transformers would fetch from the Hub instead."""
    options = ("--attention", "flash_attention_2", "--offline")
    assert_refused(run("openai/gpt-oss-20b", *options), 2, "GptOssForCausalLM runs with kernels-community/")


def test_a_model_without_flash_attention_is_refused() -> None:
    options = ("--attention", "flash_attention_2", "--offline")
    assert_refused(run("bigscience/bloom-7b1", *options), 2, "BloomForCausalLM does not support flash_attention_2")


def test_the_allocators_settings_show_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expandable segments reserve whole pages and split any block, so that both peaks are others."""
    plain = run(SMALL, "--offline", "--json", "--gpu", "4090").report
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    report = run(SMALL, "--offline", "--json", "--gpu", "4090").report
    assert report["training"]["recipe"]["alloc_conf"] == "expandable_segments:True"
    assert "alloc_conf" not in plain["training"]["recipe"]
    reserved = [item["training"]["peak_reserved_bytes"] for item in (plain, report)]
    assert reserved[1] < reserved[0]
    # Headroom is what the replay leaves: it grows by what is reserved less.
    headroom = [item["fit"][0]["headroom_bytes"] for item in (plain, report)]
    assert headroom[1] - headroom[0] == reserved[0] - reserved[1]
    assert "allocator expandable_segments:True" in " ".join(run(SMALL, "--offline").out.split())


WITHOUT_CHECKPOINTING = {
    "architectures": ["AlbertForMaskedLM"],
    "model_type": "albert",
    "vocab_size": 160,
    "embedding_size": 16,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
}


def test_gradient_checkpointing_is_refused_for_a_model_without_support(tmp_path: Path) -> None:
    """ALBERT has none in transformers, which raises a ValueError; its plan has the other candidates."""
    model = written(tmp_path, WITHOUT_CHECKPOINTING)
    short = ("--seq-len", "64", "--offline")
    says = "AlbertForMaskedLM runs without checkpointing alone"
    assert_refused(run(model, "--gradient-checkpointing", *short), 2, says)
    rows = json.loads(run("plan", model, "--gpu", "4090", "--fit", "none", "--json", *short).out)["rows"]
    assert {("checkpointing" in row["levers"], says in row.get("refused", "")) for row in rows} == {
        (True, True),
        (False, False),
    }


def test_falcon_whose_attention_cannot_be_changed_keeps_its_own() -> None:
    assert_refused(run("tiiuae/falcon-7b", "--attention", "eager", "--offline"), 2, "eager; use --attention sdpa.")
