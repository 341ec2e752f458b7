"""Launches of ranks by a file, with packed weights or with micro-batches: what a report says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import run
from tests.planning.test_fewest_cards import SMALL

pytestmark = pytest.mark.usefixtures("shared_answers")

FSDP = {"distributed_type": "FSDP", "num_processes": 4, "mixed_precision": "bf16"}
LAYERS = {"fsdp_version": 1, "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}


def ask(*arguments: str) -> dict[str, Any]:
    """Return the JSON of a report on a run over four cards."""
    ran = run(SMALL, *arguments, "--seq-len", "64", "--offline", "--no-advice", "--json")
    assert ran.code in (0, 1), ran.err
    return ran.report


def ask_file(folder: Path, **config: object) -> dict[str, Any]:
    """Return the report of a run as a file of accelerate launches it."""
    file = folder / "accelerate.yaml"
    file.write_text(json.dumps({**FSDP, "fsdp_config": {**LAYERS, **config}}), encoding="utf-8")
    return ask("--launch", str(file), "--gpu", "4090")


def test_the_first_fsdp_is_traced_as_a_file_of_accelerate_configures_it(tmp_path: Path) -> None:
    """SHARD_GRAD_OP keeps gathered layers until their backward pass, which FULL_SHARD gathers again."""
    report = ask_file(tmp_path)
    training = report["training"]
    (late,) = [item["message"] for item in report["warnings"] if item["code"] == "late-frees"]
    assert "At most" in late
    kept = ask_file(tmp_path, fsdp_sharding_strategy="SHARD_GRAD_OP")["training"]
    assert training["ranks"]["strategy"].startswith("FSDP1 as accelerate")
    assert training["ranks"]["world_size"] == 4
    assert training["peak"]["breakdown"]["gathered"] > 0
    assert kept["peak_allocated_bytes"] > training["peak_allocated_bytes"]


def test_shards_that_wait_in_host_memory_are_counted_there(tmp_path: Path) -> None:
    """Weights, gradients and two states of AdamW, all in float32: 16 bytes of each parameter, shared by four ranks."""
    training = ask_file(tmp_path, fsdp_version=2, fsdp_offload_params=True)["training"]
    assert training["host_bytes"] == pytest.approx(134_515_008 * 16 / 4, rel=1e-4)
    assert training["end_of_step_allocated_bytes"] < 20 * 2**20  # workspaces of cuBLAS, and scalars


def test_the_first_fsdp_keeps_shards_and_gradients_in_pinned_blocks(tmp_path: Path) -> None:
    """Weights and gradients in float32 are in blocks of powers of two, AdamW's states in others."""
    training = ask_file(tmp_path, fsdp_version=1, fsdp_offload_params=True)["training"]
    shares = 134_515_008 / 4
    assert 16 * shares < training["host_bytes"] < 24 * shares
    assert training["end_of_step_allocated_bytes"] < 20 * 2**20
    assert training["ranks"]["strategy"].startswith("FSDP1 as accelerate")


def test_packed_weights_in_floats_are_sharded_and_those_in_integers_are_not() -> None:
    packed = ("--gpu", "4x4090", "--fsdp", "--quantization", "nf4", "--lora", "r=8")
    whole, shared = ask(*packed), ask(*packed, "--quant-storage", "bf16")
    codes = [[warning["code"] for warning in report["warnings"]] for report in (whole, shared)]
    assert ["packed-unsharded" in each for each in codes] == [True, False]
    ends = [report["training"]["end_of_step_allocated_bytes"] for report in (whole, shared)]
    packed_bytes = whole["quantization"]["weight_bytes"]
    assert ends[0] - ends[1] == pytest.approx(packed_bytes * 3 / 4, rel=0.02)


def test_micro_batches_under_fsdp_warn_of_gradients_that_stay_whole() -> None:
    report = ask("--gpu", "4x4090", "--fsdp", "--mixed-precision", "bf16", "--gradient-accumulation", "2")
    (warning,) = [item for item in report["warnings"] if item["code"] == "whole-gradients"]
    assert "256.57 MiB, until the last of 2 micro-batches" in warning["message"]  # 134,515,008 in bfloat16


def test_what_ddps_second_step_takes_where_its_first_buckets_live_on_is_said() -> None:
    report = ask("--gpu", "2x4090", "--gradient-checkpointing")
    (late,) = [item["message"] for item in report["warnings"] if item["code"] == "late-buckets"]
    assert "that step peaks at" in late


def test_ddp_that_looks_for_unused_parameters_stops_at_reentrant_checkpoints(tmp_path: Path) -> None:
    """As torch's does on any device, with two marks of one parameter; told not to look, it runs."""
    file = tmp_path / "train.yaml"
    fields = {"model_name_or_path": SMALL, "use_peft": True, "max_length": 16, "dataset_name": "x"}
    fields |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    outcomes = []
    for more in ({}, {"ddp_find_unused_parameters": False}):
        file.write_text(json.dumps({**fields, **more}), encoding="utf-8")
        ran = run(str(file), "--framework", "trl", "--gpu", "2x4090", "--offline", "--no-advice", "--json")
        (verdict,) = json.loads(ran.out)["fit"]
        outcomes.append((ran.code, verdict["outcome"], verdict.get("reason", "")[:70]))
    stops = "DDP that looks for unused parameters stops at reentrant checkpoints, i"
    assert outcomes == [(4, "not known", stops), (0, "yes", "")]


@pytest.mark.parametrize("version", [1, 2])
def test_a_class_that_a_model_has_no_layers_of_is_named_with_the_right_one(version: int, tmp_path: Path) -> None:
    file = tmp_path / "accelerate.yaml"
    config = {**LAYERS, "fsdp_version": version, "fsdp_transformer_layer_cls_to_wrap": "MistralDecoderLayer"}
    file.write_text(json.dumps({**FSDP, "fsdp_config": config}), encoding="utf-8")
    ran = run(SMALL, "--launch", str(file), "--gpu", "4090", "--lora", "r=8", "--offline", "--no-advice")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert "names MistralDecoderLayer, of which LlamaForCausalLM has none" in ran.err
    assert ran.err.endswith("accelerate stops there: write LlamaDecoderLayer.\n")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"fsdp_version": 3}, "there are 1 and 2"),
        ({"fsdp_version": 1, "fsdp_sharding_strategy": "ALL"}, "accelerate takes FULL_SHARD"),
        ({"fsdp_version": 1, "fsdp_auto_wrap_policy": "LAYERS"}, "accelerate takes TRANSFORMER_BASED_WRAP"),
    ],
)
def test_what_accelerate_does_not_take_is_refused_in_one_line(
    config: dict[str, object], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text(json.dumps({**FSDP, "fsdp_config": config}), encoding="utf-8")
    ran = run(SMALL, "--launch", str(file), "--gpu", "4090", "--offline")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert words in ran.err
