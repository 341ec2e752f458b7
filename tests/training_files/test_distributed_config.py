"""transformers' DistributedConfig as a launcher's file: its sizes are those that transformers itself makes of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from transformers.distributed.configuration_utils import DistributedConfig

from inspector.errors import UsageError
from inspector.training_files.read import read_launch_file


def write(folder: Path, content: dict[str, Any]) -> str:
    path = folder / "distributed.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        ({"tp_size": 2, "tp_plan": "auto"}, {"gpu_count": 2, "tensor_parallel": 2}),
        ({"fsdp_size": 8, "ep_size": 4}, {"gpu_count": 8, "sharding": "fsdp", "expert_parallel": 4}),
        ({"tp_size": 2, "fsdp_size": 4}, {"gpu_count": 8, "sharding": "fsdp", "tensor_parallel": 2}),
        ({"fsdp_size": 4, "dp_replicate_size": 2}, {"gpu_count": 8, "sharding": "fsdp", "nodes": 2}),
        ({"tp_size": 1}, {"gpu_count": 1}),
    ],
    ids=str,
)
def test_its_sizes_say_over_how_many_cards_what_goes(
    content: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    read = read_launch_file(write(tmp_path, content))
    assert (read.settings, read.record.not_modelled) == (settings, ())
    config = DistributedConfig(**content)
    assert math.prod((config.tp_size or 0, config.dp_size)) == settings["gpu_count"]


def test_a_file_of_it_that_transformers_keeps_is_read(tmp_path: Path) -> None:
    config = DistributedConfig(fsdp_size=2)
    (tmp_path / "distributed.json").write_text(config.to_json_string(), encoding="utf-8")
    read = read_launch_file(str(tmp_path / "distributed.json"))
    assert (read.settings, read.record.not_modelled) == ({"gpu_count": 2, "sharding": "fsdp"}, ())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"fsdp_size": 2, "pp_size": 2}, "pipelines are not traced: give pp_size 1"),
        ({"tp_size": 2, "enable_expert_parallel": True}, "give ep_size 2, or drop it"),
        ({"tp_size": 0}, "an integer of at least 1"),
    ],
)
def test_sizes_that_are_not_traced_are_refused_in_one_line(content: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        read_launch_file(write(tmp_path, content))


def test_plans_of_its_own_are_named_as_not_modelled(tmp_path: Path) -> None:
    read = read_launch_file(write(tmp_path, {"tp_size": 2, "tp_plan": {"lm_head": "colwise"}}))
    assert [item.name for item in read.record.not_modelled] == ["tp_plan"]
