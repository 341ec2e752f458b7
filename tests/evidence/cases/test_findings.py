"""The fifteen findings of somebody who tried the command as a new user, each with the right answer.

What a Hub repository with GGUF files alone gets (finding 3) is in test_sources.py; the closed pipe (14) is tried with
real processes in tests/cli/test_streams.py, and every natural argument in Python (11) in tests/api.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import inspector
from tests.cli.running import Ran, run, written
from tests.source.weight_files import TINY_CONFIG

pytestmark = pytest.mark.usefixtures("shared_answers")

M7 = ("Qwen/Qwen2.5-7B", "--offline")
LORA = ("--lora", "r=16", "--targets", "all-linear")
_PACKED = ("Qwen/Qwen2.5-7B-Instruct-AWQ", "--offline")
GIB = 2**30


def ask(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the JSON report of a command."""
    ran = run(*arguments, "--json")
    assert ran.out, ran.err
    report: dict[str, Any] = json.loads(ran.out)
    return ran.code, report


def read_verdict(report: dict[str, Any]) -> dict[str, Any]:
    """Return the only verdict of a report."""
    (verdict,) = report["fit"]
    assert isinstance(verdict, dict)
    return verdict


def join(ran: Ran) -> str:
    """Return what was printed as one line."""
    return " ".join(ran.out.split())


def test_1_qlora_of_7b_fits_a_card_of_24_gb_because_the_preparation_switches_checkpointing_on() -> None:
    shared = (*M7, "--quantization", "nf4", "--double-quant", *LORA, "--gpu", "4090", "--no-advice")
    code, report = ask(*shared)
    assert (code, read_verdict(report)["outcome"]) == (0, "yes")
    assert report["training"]["recipe"]["gradient_checkpointing"] is True
    assert {"gradient_checkpointing", "optimizer"} <= set(report["training"]["defaults"])
    code, without = ask(*shared, "--no-gradient-checkpointing")
    assert (code, without["training"]["recipe"]["gradient_checkpointing"]) == (1, False)


def test_2_full_fine_tuning_takes_the_optimizer_of_a_default_trainer() -> None:
    shared = ("mistralai/Mistral-7B-v0.1", "--offline", "--gradient-checkpointing", "--gpu-memory", "64GiB")
    code, report = ask(*shared, "--no-advice")
    assert (code, report["training"]["recipe"]["optimizer"]) == (0, "adamw_torch_fused")
    assert ask(*shared, "--no-advice", "--optimizer", "adamw_torch")[0] == 1
    t4 = ("Qwen/Qwen2.5-1.5B", "--offline", "--gradient-checkpointing", "--gpu", "t4", "--no-advice")
    assert read_verdict(ask(*t4)[1])["outcome"] in ("yes", "tight")
    # What README has of Qwen2.5-7B on an A100: the figure of the optimizer that a Trainer takes.
    fit = inspector.inspect("Qwen/Qwen2.5-7B", gpu="a100-80gb", advice=False, offline=True).fit
    assert fit is not None
    assert fit[0].headroom_bytes == 17_877_172_224


@pytest.mark.parametrize("fields", [{}, {"architectures": ["LlamaForCausalLM"], "hiden_size": 8192}])
def test_3_a_configuration_without_sizes_is_not_judged(fields: dict[str, Any], tmp_path: Path) -> None:
    model = written(tmp_path, {"model_type": "llama", **fields})
    ran = run(model, "--offline", *LORA, "--quantization", "nf4", "--gpu", "4090")
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (4, "", 1)
    assert "hidden_size" in ran.err
    assert "--assume-defaults" in ran.err
    if fields:
        assert "hiden_size" in ran.err
    assumed = run(model, "--offline", "--assume-defaults", "--seq-len", "16")
    assert assumed.code == 0
    assert "default" in " ".join(assumed.out.splitlines()[:4])


def test_4_a_packed_checkpoint_is_judged_by_an_upper_bound_and_the_first_screen_says_so() -> None:
    # LoRA in float32 is traced on the packed weights; in half precision nothing is known of that.
    assert ask(*_PACKED, *LORA, "--gpu", "4090", "--no-advice")[0] == 0
    packed = (*_PACKED, "--no-autocast-adapter-dtype", "--batch-size", "4")
    code, report = ask(*packed, *LORA, "--gpu", "4090", "--no-advice")
    assert (code, read_verdict(report)["outcome"]) == (4, "not known")
    assert "upper bound" in read_verdict(report)["reason"]
    # What fits dequantized fits packed.
    assert ask(*packed, *LORA, "--gpu", "h200", "--no-advice")[0] == 0
    # Not even the packed weights and the state of the adapter have room: 8 bytes a parameter of it, and the count of
    # steps that a fused optimizer keeps for each of 392 tensors.
    code, small = ask(*packed, *LORA, "--gpu-memory", "6GiB", "--no-advice")
    least = small["quantization"]["loaded_bytes"] + 8 * small["parameters"]["trainable"] + 4 * 392
    verdict = read_verdict(small)
    assert (code, verdict["outcome"], verdict["headroom_bytes"]) == (1, "no", verdict["usable_bytes"] - least)
    plan = run("plan", *_PACKED, "--gpu", "h200", "--fit", "none", "--json").report
    assert {row["method"] for row in plan["rows"]} == {"adapter"}
    assert any("packed weights" in warning for warning in plan["warnings"])


@pytest.mark.parametrize(
    "cards", [("--gpu", "4090", "--gpu", "4090"), ("--gpu", "2x4090"), ("--gpu", "4090", "--gpus", "2")]
)
def test_5_several_cards_are_understood_and_a_rank_of_ddp_is_judged(cards: tuple[str, ...]) -> None:
    code, report = ask(*M7, *cards, "--no-advice")
    verdict = read_verdict(report)
    # 7,615,616,512 parameters in bfloat16, their gradients, two moments: 56.7 GiB in shares of 23.10 GiB at most.
    assert (code, verdict["outcome"]) == (1, "no")
    assert (verdict["cards"]["count"], verdict["cards"]["least_count"]) == (2, 3)
    assert verdict["cards"]["state_bytes"] == report["static"]["full"]["total_bytes"]
    ranks = verdict["cards"]["ranks"]
    assert (ranks["strategy"].split()[0], ranks["world_size"], ranks["alike"]) == ("DDP", 2, 2)


@pytest.mark.parametrize(("option", "value"), [("--tp", "2"), ("--world-size", "2"), ("--num-gpus", "2")])
def test_5_options_of_launchers_get_a_line_that_says_how_several_cards_are_written(option: str, value: str) -> None:
    ran = run(*M7, "--gpu", "4090", option, value)
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert "--gpu 2x4090" in ran.err
    assert ask(*M7, "--gpu", "4090", "--fsdp", "--no-advice")[0] == 1
    assert ask(*M7, "--gpu", "8x4090", "--deepspeed", "zero3", "--no-advice")[0] == 4


def test_6_a_close_call_is_tight_and_a_search_stops_at_the_margin() -> None:
    shared = (*M7, *LORA, "--gpu", "4090", "--gradient-checkpointing", "--no-advice")
    code, report = ask(*shared, "--batch-size", "4")
    verdict = read_verdict(report)
    assert (code, verdict["outcome"]) == (0, "tight")
    assert 0 <= verdict["headroom_bytes"] < verdict["uncertain_bytes"]
    assert sum(item["bytes"] for item in verdict["uncertainty"]) == verdict["uncertain_bytes"]
    assert report["training"]["total_bytes"] <= verdict["memory_bytes"]
    # Who asks for more to stay free gets a no.
    assert ask(*shared, "--batch-size", "4", "--margin", "1GiB")[0] == 1
    assert ask(*shared, "--batch-size", "4", "--margin", "0")[0] == 0
    code, searched = ask(*shared, "--fit", "seq-len")
    assert read_verdict(searched)["outcome"] == "yes"
    assert searched["search"]["margin_bytes"] == verdict["uncertain_bytes"]
    fitting = [item for item in searched["search"]["tried"] if item["fits"]]
    assert all(item["total_bytes"] <= verdict["memory_bytes"] for item in fitting)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*M7, *LORA, "--gpu", "4090"), "fits with --gradient-checkpointing"),
        ((*M7, "--gpu", "2x4090", "--no-advice"), "each of 2 ranks (one a card), DDP as accelerate"),
        (
            (*_PACKED, *LORA, "--no-autocast-adapter-dtype", "--gpu", "4090", "--no-advice"),
            "upper bound, dequantized",
        ),
        (
            (*M7, *LORA, "--gpu", "4090", "--gradient-checkpointing", "--batch-size", "4", "--no-advice"),
            "are uncertain",
        ),
    ],
)
def test_7_the_answer_is_one_screen(arguments: tuple[str, ...], says: str) -> None:
    ran = run(*arguments)
    lines = ran.out.splitlines()
    assert len(lines) <= 28
    assert max(map(len, lines)) <= 80
    assert "RTX 4090" in ran.out
    assert says in join(ran)


def test_8_a_plan_recommends_what_the_advice_does_least_harmful_first_and_with_a_margin() -> None:
    plan = run("plan", *M7, "--gpu", "4090", "--fit", "none", "--json").report
    first: dict[str, str] = {}
    for row in plan["rows"]:
        if row.get("outcome") == "yes":
            first.setdefault(row["method"], row["options"])
    assert first == {
        "adapter": "--lora r=16 --targets all-linear --gradient-checkpointing",
        "quantized-adapter": "--lora r=16 --targets all-linear --quantization nf4 --double-quant",
    }
    advice = read_verdict(ask(*M7, *LORA, "--gpu", "4090")[1])["advice"]
    assert advice[0]["change"] == "--gradient-checkpointing"


def test_9_sequences_are_no_rows(tmp_path: Path) -> None:
    model = written(tmp_path, {**TINY_CONFIG, "vocab_size": 4_000})
    small = ("plan", model, "--offline", "--gpu", "4090", "--seq-len", "64", "--fit", "none")
    few = ("--quantization", "none", "--attention", "eager")
    for arguments in (("--help",), ("plan", "--help"), (*small, *few)):
        words = join(run(*arguments)).lower().split()
        assert not {"rows", "row"} & set(words)


@pytest.mark.parametrize(
    ("optimizer", "bytes_a_parameter"), [("sgd", 0), ("adamw_torch", 8), ("paged_adamw_8bit", 0.0)]
)
def test_10_static_bytes_are_those_of_the_optimizer(optimizer: str, bytes_a_parameter: float) -> None:
    shared = ("Qwen/Qwen2.5-0.5B", "--offline", "--dtype", "float32", "--optimizer", optimizer)
    report = ask(*shared)[1]
    assert report["static"]["optimizer"] == optimizer
    state = report["static"]["full"]["optimizer_bytes"]
    traced = report["training"]["peak"]["breakdown"].get("optimizer", 0)
    if optimizer == "paged_adamw_8bit":  # small parameters and scales alone lie on the GPU
        assert 0 < state < report["parameters"]["base"]
    else:
        assert state == bytes_a_parameter * report["parameters"]["base"]
    assert state <= traced or traced == 0  # a block of the allocator is a multiple of 512 bytes


def test_11_natural_arguments_in_python_work_and_a_report_prints_itself() -> None:
    report = inspector.inspect("Qwen/Qwen2.5-0.5B", recipe={"batch_size": 2, "seq_len": 64}, gpu=None, offline=True)
    assert str(report).startswith("Qwen/Qwen2.5-0.5B\n")
    assert callable(inspector.plan)
    assert callable(inspector.compare)
    with pytest.raises(inspector.InspectorError, match="`gpu` is 4090"):
        inspector.inspect("Qwen/Qwen2.5-0.5B", gpu=4090, offline=True)  # type: ignore[arg-type]


def test_12_a_model_whose_step_is_not_traced_has_its_counts_and_its_static_bytes() -> None:
    ran = run("facebook/bart-large", "--offline", "--gpu", "4090", "--json")
    report = json.loads(ran.out)
    assert (ran.code, len(ran.err.splitlines())) == (4, 1)
    assert (read_verdict(report)["outcome"], report["parameters"]["base"] > 0) == ("not known", True)
    assert report["static"]["full"]["total_bytes"] > 0
    assert read_verdict(report)["reason"]


def test_13_experts_that_become_float32_are_a_sentence() -> None:
    mixtral = ("mistralai/Mixtral-8x7B-v0.1", "--offline", "--quantization", "nf4", "--lora", "r=16")
    report = ask(*mixtral, "--targets", "q_proj,v_proj", "--gpu", "a100-80gb", "--no-advice")[1]
    (message,) = (item["message"] for item in report["warnings"] if item["code"] == "experts-in-float")
    # 32 layers of 8 experts of 3 x 4,096 x 14,336 weights: 45,097,156,608, of 2 bytes and then of 4.
    assert message.startswith("Experts grow under nf4: 84.00 GiB become 168.00 GiB")
    assert 168 * GIB == 45_097_156_608 * 4


def test_15_a_remedy_that_costs_nothing_is_offered_first_and_silence_never_is_an_answer() -> None:
    shared = (*M7, *LORA, "--gpu", "4090", "--gradient-checkpointing", "--batch-size", "4")
    code, report = ask(*shared, "--no-autocast-adapter-dtype")
    verdict = read_verdict(report)
    assert verdict["outcome"] != "yes"
    free = verdict["advice"][0]
    assert (free["change"], free["is_tight"]) == ("--alloc-conf expandable_segments:True", True)
    assert ask(*shared, "--no-autocast-adapter-dtype", "--no-advice", *free["change"].split())[0] == 0
    code, large = ask("Qwen/Qwen2.5-0.5B", "--offline", "--gpu-memory", "700MiB")
    assert (code, read_verdict(large)["advice"]) == (1, [])
    assert "nothing-fits" in [item["code"] for item in large["warnings"]]
