"""Experts that lie whole on ranks of their own: what a rank takes, and which cards a model's experts go over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.running import run

EXPERTS = "allenai/OLMoE-1B-7B-0924"


SMALL = {
    "model_type": "olmoe",
    "architectures": ["OlmoeForCausalLM"],
    "num_hidden_layers": 2,
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}


def ask(folder: Path, *arguments: str) -> dict[str, Any]:
    """Return the report of a small model of 64 experts on four cards."""
    (folder / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
    ran = run(str(folder), "--gpu", "4xH200", *arguments, "--seq-len", "16", "--offline", "--no-advice", "--json")
    assert ran.code == 0, ran.err
    report: dict[str, Any] = json.loads(ran.out)
    return report


def test_each_rank_loads_its_share_of_the_experts_whole_and_its_shard_of_the_rest(tmp_path: Path) -> None:
    """64 experts of 2 layers have 25,165,824 of 26,248,960 parameters; of all of them a rank has a quarter."""
    report = ask(tmp_path, "--expert-parallel", "4", "--fsdp")
    ranks = report["training"]["ranks"]
    assert ranks["strategy"].startswith("expert parallel over 4 by the plan of transformers")
    assert ranks["strategy"].endswith("FSDP2 over 4")
    assert (ranks["world_size"], ranks["alike"]) == (4, 4)
    loaded = report["training"]["phases"][0]["end_allocated_bytes"]
    assert loaded == pytest.approx(2 * 26_248_960 / 4, rel=0.01)
    assert "balanced-experts" in {item["code"] for item in report["warnings"]}


def test_experts_lie_whole_where_the_rest_of_a_layer_is_cut(tmp_path: Path) -> None:
    strategy = ask(tmp_path, "--expert-parallel", "4", "--tensor-parallel", "4")["training"]["ranks"]["strategy"]
    assert strategy.startswith("tensor parallel over 4 and expert parallel over 4")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "4xH200", "--expert-parallel", "3", "--fsdp"), "does not divide the number of cards, 4"),
        (("--gpu", "4xH200", "--expert-parallel", "4"), "add --fsdp, which shards it, or --tensor-parallel 4"),
        (
            ("--gpu", "8xH200", "--expert-parallel", "2", "--tensor-parallel", "4", "--fsdp"),
            "--expert-parallel 2 is no multiple of --tensor-parallel 4",
        ),
        (("--gpu", "3xH200", "--expert-parallel", "3", "--fsdp"), "does not divide the 64 experts"),
        (("--gpu", "4xH200", "--ep-size", "4"), "experts of their own are --expert-parallel 2"),
    ],
)
def test_cards_that_experts_cannot_be_spread_over_are_refused_with_what_divides(
    arguments: tuple[str, ...], words: str
) -> None:
    ran = run(EXPERTS, *arguments, "--offline", "--no-advice")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert words in ran.err
    if "a real step stops there" in ran.err:
        assert "give one of 2, 4, 8, 16" in ran.err


def test_a_model_without_a_plan_for_experts_is_refused_by_name() -> None:
    model = "HuggingFaceTB/SmolLM2-135M"
    ran = run(model, "--gpu", "2x4090", "--expert-parallel", "2", "--fsdp", "--offline", "--no-advice")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert "no plan for experts of LlamaForCausalLM" in ran.err


def test_what_the_cpu_has_no_kernel_for_has_no_value() -> None:
    """CUDA counts integers in bins, the CPU does not."""
    from inspector.trace.shadow import NO_VALUE, Shadows

    shadows, tensor = Shadows(), torch.empty(4, dtype=torch.int32, device="meta")
    shadows.set(tensor, torch.arange(4, dtype=torch.int32))
    assert shadows.run(torch.ops.aten.histc.default, (tensor,), {"bins": 4, "min": 0, "max": 3}) is NO_VALUE
