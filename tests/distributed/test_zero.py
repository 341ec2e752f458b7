"""ZeRO on ranks: DeepSpeed's configuration as it is filled in, and what a report says of a rank of its own engine."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inspector.compat.deepspeed import release_in_order
from inspector.distributed.zero import fill_config
from inspector.records.recipe import Recipe
from inspector.records.steps.ranks import Zero
from inspector.runtime.patches import restore_changes
from inspector.workloads.base import NotTraceableError
from tests.cli.running import run
from tests.planning.test_fewest_cards import SMALL

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
RECIPE = Recipe(batch_size=2, gradient_accumulation=3, mixed_precision="bf16", max_grad_norm=1.0)


def fill(config: dict[str, Any] | None, **of_model: object) -> dict[str, Any]:
    """Return a configuration of stage 2 on four ranks, filled in for a model whose config has such fields."""
    model = SimpleNamespace(config=SimpleNamespace(**of_model))
    return fill_config(model, RECIPE, Zero(world_size=4, stage=2, config=config))


def test_auto_is_what_accelerate_and_transformers_fill_in() -> None:
    zero = {"stage": 2, "reduce_bucket_size": "auto", "stage3_param_persistence_threshold": "auto"}
    filled = fill({"zero_optimization": zero, "optimizer": {"type": "AdamW"}}, hidden_size=100)
    assert filled["zero_optimization"]["reduce_bucket_size"] == 100 * 100
    assert filled["zero_optimization"]["stage3_param_persistence_threshold"] == 10 * 100
    assert (filled["train_micro_batch_size_per_gpu"], filled["train_batch_size"]) == (2, 2 * 3 * 4)
    assert (filled["bf16"], filled["gradient_clipping"], "optimizer" in filled) == ({"enabled": True}, 1.0, False)


def test_without_a_file_buckets_are_auto_and_with_one_that_names_none_deepspeeds_own() -> None:
    assert fill(None, hidden_size=100)["zero_optimization"]["reduce_bucket_size"] == 100 * 100
    assert "reduce_bucket_size" not in fill({"zero_optimization": {"stage": 2}}, hidden_size=100)["zero_optimization"]


@pytest.mark.parametrize(
    ("zero", "of_model"),
    [({"reduce_bucket_size": "auto"}, {}), ({"sub_group_size": "auto"}, {"hidden_size": 100})],
)
def test_auto_that_nothing_says_the_value_of_is_named(zero: dict[str, object], of_model: dict[str, object]) -> None:
    with pytest.raises(NotTraceableError, match=f"`zero_optimization.{next(iter(zero))}` is auto, and nothing says"):
        fill({"zero_optimization": zero}, **of_model)


def ask(*arguments: str) -> dict[str, Any]:
    """Return the JSON of a report on a run over four cards."""
    ran = run(SMALL, *arguments, "--mixed-precision", "bf16", "--seq-len", "64", "--offline", "--no-advice", "--json")
    assert ran.code in (0, 1), ran.err
    return ran.report


@pytest.mark.skipif(HAS_DEEPSPEED, reason="DeepSpeed is installed")
def test_where_deepspeed_is_missing_the_report_says_what_traces_its_ranks() -> None:
    report = ask("--gpu", "4x4090", "--deepspeed", "zero3")
    assert "ranks" not in report["training"]
    (warning,) = [item for item in report["warnings"] if item["code"] == "several-gpus"]
    assert "pip install deepspeed" in warning["message"]


@pytest.mark.skipif(not HAS_DEEPSPEED, reason="DeepSpeed is not installed")
def test_a_file_of_deepspeed_is_run_by_its_own_engine(tmp_path: Path) -> None:
    """Stage 1 keeps whole gradients in half precision until the update, stage 3 a share of all there is."""
    peaks = []
    for stage in (1, 3):
        file = tmp_path / "zero.json"
        zero = {"stage": stage, "reduce_bucket_size": "auto"}
        file.write_text(json.dumps({"bf16": {"enabled": True}, "zero_optimization": zero}), encoding="utf-8")
        training = ask("--gpu", "4x4090", "--launch", str(file))["training"]
        assert training["ranks"]["strategy"].startswith(f"ZeRO-{stage} as DeepSpeed")
        assert sum(training["peak"]["breakdown"].values()) == training["peak_allocated_bytes"]
        peaks.append(training["end_of_step_allocated_bytes"])
    assert peaks[1] < peaks[0]


@pytest.mark.skipif(not HAS_DEEPSPEED, reason="DeepSpeed is not installed")
def test_what_is_offloaded_waits_in_host_memory_and_not_on_the_card(tmp_path: Path) -> None:
    """Masters and states are 12 bytes of a share, gradients 4. A buffer of the largest gradient comes to the card."""
    file = tmp_path / "zero.json"
    found = []
    for parts in ({}, {"offload_optimizer": {"device": "cpu"}}):
        zero = {"stage": 2, "reduce_bucket_size": "auto", **parts}
        file.write_text(json.dumps({"bf16": {"enabled": True}, "zero_optimization": zero}), encoding="utf-8")
        report = ask("--gpu", "4x4090", "--launch", str(file), "--optimizer", "adamw_torch")
        found.append(report["training"])
        trained = report["parameters"]["trainable"]
    kept, offloaded = found
    assert "host_bytes" not in kept
    assert offloaded["host_bytes"] > 16 * trained / 4
    assert offloaded["end_of_step_allocated_bytes"] < kept["end_of_step_allocated_bytes"] - 10 * trained / 4


def test_an_auto_that_nothing_fills_in_is_refused_in_one_line_with_or_without_the_package(tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    zero = {"stage": 2, "reduce_bucket_size": "auto", "allgather_bucket_size": "auto"}
    file.write_text(json.dumps({"zero_optimization": zero}), encoding="utf-8")
    ran = run(SMALL, "--gpu", "4x4090", "--launch", str(file), "--offline")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert 'zero_optimization.allgather_bucket_size is "auto", and nothing says what that is' in ran.err


def test_states_that_wait_on_a_disk_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    offload = {"device": "nvme", "nvme_path": "/disk"}
    zero = {"stage": 3, "offload_optimizer": offload}
    file.write_text(json.dumps({"zero_optimization": zero}), encoding="utf-8")
    ran = run(SMALL, "--gpu", "4x4090", "--launch", str(file), "--offline")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert "zero_optimization.offload_optimizer is on nvme" in ran.err


@pytest.mark.skipif(not HAS_DEEPSPEED, reason="DeepSpeed is not installed")
def test_parameters_are_let_go_of_in_the_order_of_the_model_while_a_trace_lasts() -> None:
    from deepspeed.runtime.zero import partitioned_param_coordinator as coordinator  # type: ignore[import-not-found]

    with restore_changes():
        release_in_order()
        released = coordinator.set([3, 1, 2, 1])
        released.update((0, 3))
        assert list(released) == [3, 1, 2, 0]
    assert "set" not in vars(coordinator)
