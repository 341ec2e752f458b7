"""Launches that no step can have: one line that names the cause and what to give, and the exit code of a slip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inspector.training_files.read import read_launch_file
from tests.cli.running import run
from tests.planning.test_fewest_cards import SMALL

FSDP = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "FSDP",
    "num_processes": 8,
    "fsdp_config": {"fsdp_version": 2},
}


@pytest.mark.parametrize(
    ("file", "arguments", "words"),
    [
        (FSDP, ("--gpu", "4xH100"), "launches 8 processes, and 4 cards are named"),
        ({**FSDP, "fsdp_config": {"fsdp_version": 3}}, ("--gpu", "H100"), "there are 1 and 2: give one of them"),
        (
            {**FSDP, "distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_config_file": "missing.json"}},
            ("--gpu", "H100"),
            "leaves how DeepSpeed is configured to 'missing.json', which is no JSON file",
        ),
        ({**FSDP, "distributed_type": "MEGATRON_LM"}, ("--gpu", "H100"), "launches Megatron-LM"),
        (
            {"zero_optimization": {"stage": 3, "stage3_max_live_parameters": "auto"}},
            ("--gpu", "8xH100"),
            'stage3_max_live_parameters is "auto", and nothing says what that is',
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            ("--gpu", "8xH100"),
            "offload_param is on nvme",
        ),
        (None, ("--gpu", "1000000xH100", "--fsdp"), "1,000,000 cards share is not traced, 4,096 are the most"),
    ],
)
def test_a_launch_that_no_step_can_have_is_refused_in_one_line(
    file: dict[str, Any] | None, arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    launch: tuple[str, ...] = ()
    if file is not None:
        (tmp_path / "launch.json").write_text(json.dumps(file), encoding="utf-8")
        launch = ("--launch", str(tmp_path / "launch.json"))
    ran = run(SMALL, *launch, *arguments, "--offline", "--no-advice")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert words in ran.err


def test_a_launch_that_names_no_number_of_cards_is_asked_for_it(tmp_path: Path) -> None:
    (tmp_path / "acc.yaml").write_text(json.dumps({**FSDP, "num_processes": None}), encoding="utf-8")
    ran = run(SMALL, "--launch", str(tmp_path / "acc.yaml"), "--gpu", "H100", "--offline", "--no-advice", "--json")
    assert ran.code == 0, ran.err
    messages = [item["message"] for item in json.loads(ran.out)["warnings"] if item["code"] == "several-gpus"]
    assert len(messages) == 1
    assert "--gpus says how many there are, and so does num_processes" in messages[0]


def test_ranks_that_share_nothing_are_traced_however_many_there_are() -> None:
    """Under DDP each has the whole model, so that a step of many is made of no more pieces."""
    ran = run(SMALL, "--gpu", "5000xH100", "--seq-len", "16", "--offline", "--no-advice", "--json")
    assert ran.code == 0, ran.err
    ranks = json.loads(ran.out)["training"]["ranks"]
    assert (ranks["world_size"], ranks["alike"]) == (5000, 5000)


def test_the_stage_is_that_of_the_file_of_deepspeed_that_accelerates_file_names(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}}))
    named = {"deepspeed_config_file": "ds.json", "zero3_init_flag": True}
    file = tmp_path / "accelerate.yaml"
    file.write_text(json.dumps({**FSDP, "distributed_type": "DEEPSPEED", "deepspeed_config": named}), encoding="utf-8")
    settings = read_launch_file(str(file)).settings
    assert (settings["sharding"], settings["mixed_precision"]) == ("zero3", "bf16")
