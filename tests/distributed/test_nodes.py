"""Shards that each machine keeps all of (HSDP): options, launch files, and what a report says of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types

from inspector.errors import UsageError
from inspector.planning.many_cards.rank_classes import list_rank_classes
from inspector.records.steps.ranks import Fsdp1, Fsdp2
from inspector.training_files.read import read_launch_file, read_training_file
from tests.cli.running import run
from tests.contracts.json_table import closed, load_schema
from tests.distributed.test_fsdp2 import ask
from tests.planning.test_fewest_cards import SMALL, make_run

LAYERS = {"fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}
HYBRID = {"fsdp_version": 1, "fsdp_sharding_strategy": "HYBRID_SHARD", **LAYERS}
SECOND = {"distributed_type": "FSDP", "num_processes": 8, "fsdp_config": {"fsdp_version": 2, **LAYERS}}
MESH = {"parallelism_config_dp_replicate_size": 2, "parallelism_config_dp_shard_size": 4}


def read(folder: Path, content: dict[str, Any]) -> Any:
    """Return what a file of accelerate means."""
    file = folder / "accelerate.yaml"
    file.write_text(json.dumps(content), encoding="utf-8")
    return read_launch_file(str(file))


def test_each_machine_shards_over_its_own_cards_and_the_report_says_so() -> None:
    """Of 6 cards on 2 machines 3 hold shards: 576 rows are 192 each, 49,152 rows 16,384."""
    (code, report), (_, alone) = (
        ask(SMALL, "--gpu", f"{count}x4090", *more) for count, more in ((6, ("--nodes", "2")), (3, ()))
    )
    training, (verdict,) = report["training"], report["fit"]
    assert code == 0
    assert (training["ranks"]["copies"], training["ranks"]["alike"]) == (2, 6)
    assert "with shards on each of 2 nodes (HSDP)" in training["ranks"]["strategy"]
    assert verdict["cards"]["least_count"] == 2 * alone["fit"][0]["cards"]["least_count"]
    ends = [each["training"]["end_of_step_allocated_bytes"] for each in (report, alone)]
    assert ends[0] == pytest.approx(ends[1], rel=0.01)
    assert "copies" not in alone["training"]["ranks"]
    Draft202012Validator(closed(load_schema())).validate(report)


def test_ranks_of_a_copy_differ_as_those_of_as_many_cards() -> None:
    assert list_rank_classes(Fsdp2(world_size=14, replicas=2), [896, 4864]) == [range(6), range(6, 7)]


def test_the_first_fsdp_follows_its_strategy_within_each_machine() -> None:
    asked, _ = make_run("24GiB", sharding="fsdp1")
    asked = asked.with_request(dataclasses.replace(asked.request, nodes=2))
    assert asked.with_cards(8).launch == Fsdp1(world_size=8, sharding_strategy="HYBRID_SHARD", replicas=2)
    assert asked.with_cards(2).launch is asked.with_cards(3).launch is None


def test_a_file_of_accelerate_says_how_many_machines_keep_all_shards(tmp_path: Path) -> None:
    """FSDP1 has a strategy for it, FSDP2 a mesh; FULL_SHARD goes over all cards of all machines."""
    launched = {"distributed_type": "FSDP", "num_processes": 16, "num_machines": 2}
    hybrid = read(tmp_path, {**launched, "fsdp_config": HYBRID})
    assert hybrid.settings["nodes"] == 2
    assert hybrid.settings["sharding_settings"] == {"sharding_strategy": "HYBRID_SHARD"}
    full = read(tmp_path, {**launched, "fsdp_config": {**HYBRID, "fsdp_sharding_strategy": "FULL_SHARD"}})
    assert "nodes" not in full.settings
    assert "num_machines" not in [item.name for item in full.record.fields]
    mesh = read(tmp_path, {**SECOND, "parallelism_config": MESH})
    assert (mesh.settings["nodes"], mesh.settings["sharding"], mesh.record.not_modelled) == (2, "fsdp", ())


def test_a_strategy_that_fsdp2_does_not_read_is_said(tmp_path: Path) -> None:
    found = read(tmp_path, {**SECOND, "num_machines": 2, "fsdp_config": {**HYBRID, "fsdp_version": 2}})
    assert "nodes" not in found.settings
    assert [remark.code for remark in found.record.remarks] == ["hybrid-ignored"]


def test_cards_that_share_layers_are_cut_over_and_those_that_share_a_sequence_are_not_modelled(tmp_path: Path) -> None:
    sizes = {"distributed_type": "MULTI_GPU", "num_processes": 2}
    assert read(tmp_path, {**sizes, "parallelism_config": {"tp_size": 2}}).settings["tensor_parallel"] == 2
    (missed,) = read(tmp_path, {**sizes, "parallelism_config": {"cp_size": 2}}).record.not_modelled
    assert missed.name == "parallelism_config"


def test_cards_that_share_layers_beside_shards_are_read_as_transformers_runs_them(tmp_path: Path) -> None:
    """Accelerate stops there under FSDP: it imports `ReplicateParallel`, which transformers 5.23 has no more."""
    mesh = {"parallelism_config_tp_size": 2, "parallelism_config_dp_shard_size": 4}
    native = read(tmp_path, {**SECOND, "distributed_type": "MULTI_GPU", "parallelism_config": mesh})
    by_fsdp = read(tmp_path, {**SECOND, "parallelism_config": mesh})
    for found in (native, by_fsdp):
        settings = {name: found.settings.get(name) for name in ("gpu_count", "tensor_parallel", "sharding")}
        assert settings == {"gpu_count": 8, "tensor_parallel": 2, "sharding": "fsdp"}
        assert "sharding_settings" not in found.settings
        assert found.record.not_modelled == ()
    assert [remark.code for remark in native.record.remarks] == []
    assert [remark.code for remark in by_fsdp.record.remarks] == ["fsdp-beside-tp"]


def test_axolotls_sizes_are_cards_and_copies_under_its_second_fsdp(tmp_path: Path) -> None:
    file = tmp_path / "axolotl.yaml"
    base = {"base_model": SMALL, "datasets": [{"path": "x", "type": "alpaca"}], "micro_batch_size": 1}
    sizes = {"dp_shard_size": 4, "dp_replicate_size": 2, "fsdp_version": 2, "fsdp_config": {"version": 2}}
    file.write_text(json.dumps({**base, **sizes}), encoding="utf-8")
    found = read_training_file(str(file))
    assert found is not None
    settings = found.settings
    assert (settings["gpu_count"], settings["nodes"], settings["sharding"]) == (8, 2, "fsdp")


def test_axolotls_experts_are_spread_under_its_second_fsdp_alone(tmp_path: Path) -> None:
    """Its own code sends tokens to them, which is said; under DDP and FSDP1 axolotl stops."""
    file = tmp_path / "axolotl.yaml"
    base = {"base_model": SMALL, "datasets": [{"path": "x", "type": "alpaca"}], "micro_batch_size": 1}
    found = []
    for version in (2, 1):
        sizes = {"dp_shard_size": 2, "expert_parallel_size": 4, "fsdp_version": version}
        file.write_text(json.dumps({**base, **sizes, "fsdp_config": {"fsdp_version": version}}), encoding="utf-8")
        read_file = read_training_file(str(file))
        assert read_file is not None
        missed = {item.name: item.effect.value for item in read_file.record.not_modelled}
        found.append((read_file.settings.get("gpu_count"), read_file.settings.get("expert_parallel"), missed))
    assert found[0] == (8, 4, {"expert_parallel_size": "unknown"})
    assert found[1][:2] == (None, None)
    assert found[1][2]["expert_parallel_size"] == "less"


def test_axolotl_packs_a_base_in_host_memory_where_rank_0_alone_loads_it(tmp_path: Path) -> None:
    file = tmp_path / "axolotl.yaml"
    base = {"base_model": SMALL, "datasets": [{"path": "x", "type": "alpaca"}], "micro_batch_size": 1}
    base |= {"adapter": "qlora", "load_in_4bit": True}
    found = []
    for config in ({"fsdp_cpu_ram_efficient_loading": True}, {"fsdp_offload_params": False}):
        file.write_text(json.dumps({**base, "fsdp": ["full_shard"], "fsdp_config": config}), encoding="utf-8")
        read_file = read_training_file(str(file))
        assert read_file is not None
        found.append(read_file.settings.get("sharding_settings", {}).get("packed_on_host", False))
    assert found == [True, False]


def test_offload_among_the_older_words_of_fsdp_is_read(tmp_path: Path) -> None:
    file = tmp_path / "axolotl.yaml"
    base = {"base_model": SMALL, "datasets": [{"path": "x", "type": "alpaca"}], "micro_batch_size": 1}
    for asked in (["full_shard", "offload"], "full_shard auto_wrap"):
        file.write_text(json.dumps({**base, "fsdp": asked, "fsdp_config": {"fsdp_version": 1}}), encoding="utf-8")
        found = read_training_file(str(file))
        assert found is not None
        assert found.settings.get("sharding_settings", {}).get("offload", False) is ("offload" in asked)
        assert found.record.not_modelled == ()


@pytest.mark.parametrize(
    ("option", "what"),
    [("--pp", "stages of layers"), ("--context-parallel", "parts of a sequence")],
)
def test_what_no_trace_spreads_over_cards_is_refused_by_name(option: str, what: str) -> None:
    ran = run(SMALL, "--gpu", "2x4090", option, "2", "--offline")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert f"{option} is no option: {what} on cards of their own are not traced" in ran.err


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        ({"dp_replicate_size": 2, "dp_shard_size": 2}, "is of 4 processes .* and num_processes is 8"),
        ({"dp_replicate_size": 8}, "leaves FSDP nothing to shard over"),
        ({"dp_shard_size": "many"}, "no number of cards"),
    ],
)
def test_a_mesh_that_accelerate_does_not_take_is_refused(mesh: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        read(tmp_path, {**SECOND, "parallelism_config": mesh})


def test_a_mesh_beside_fsdp1_is_refused_as_accelerate_does(tmp_path: Path) -> None:
    first = {**SECOND, "fsdp_config": {"fsdp_version": 1, **LAYERS}}
    with pytest.raises(UsageError, match="parallelism_config is for FSDP2, and this file is for FSDP1"):
        read(tmp_path, {**first, "parallelism_config": MESH})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "8x4090", "--nodes", "3", "--fsdp"), "so that each has as many"),
        (("--gpu", "2x4090", "--nodes", "2", "--fsdp"), "give --gpus 4"),
        (("--gpu", "8x4090", "--nodes", "2"), "add --fsdp alone"),
        (("--gpu", "4090", "--nodes", "2", "--fsdp", "--fit", "gpus"), "the cards of one machine"),
        (("--gpu", "2x4090", "--fsdp-version", "1"), "add --fsdp, or drop it"),
    ],
)
def test_machines_that_share_no_shards_are_refused_in_one_line(arguments: tuple[str, ...], words: str) -> None:
    ran = run(SMALL, "--offline", *arguments)
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert words in ran.err
