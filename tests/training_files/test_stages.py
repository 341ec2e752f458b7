"""What files say of the stages beside supervised training: whose loss, which reference, which rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inspector.training_files.read import ReadFile, read_training_file
from tests.training_files.documents import AXOLOTL, LLAMAFACTORY, TRL, write

DPO = TRL | {"loss_type": "sigmoid"}
GRPO = {name: value for name, value in TRL.items() if name != "max_length"}
GRPO |= {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 256}


def read(folder: Path, content: Any, *, framework: str | None = None) -> ReadFile:
    """Return a document as it is read."""
    found = read_training_file(write(folder, content), framework=framework)
    assert found is not None
    return found


def missed(file: ReadFile) -> set[str]:
    """Return the names of what is not modelled."""
    return {item.name for item in file.record.not_modelled}


@pytest.mark.parametrize(
    ("version", "loss", "is_missed"), [("1.16.0", "fused", False), ("1.14.1", None, False), ("1.12.0", None, True)]
)
def test_the_loss_of_dpo_is_that_of_the_release(
    version: str, loss: str | None, is_missed: bool, tmp_path: Path
) -> None:
    file = read(tmp_path, DPO, framework=f"trl=={version}")
    assert file.settings.get("loss") == loss
    assert ("loss" in missed(file)) is is_missed
    assert not {"stage", "reference", "loss_type", "beta"} & missed(file)


def test_log_probabilities_that_were_computed_before_leave_no_reference_pass(tmp_path: Path) -> None:
    file = read(tmp_path, DPO | {"precompute_ref_log_probs": True})
    assert file.settings["reference"] == "none"


def test_a_loss_that_reads_logits_once_more_is_told(tmp_path: Path) -> None:
    assert "loss_type" in missed(read(tmp_path, TRL | {"loss_type": ["sigmoid", "sft"]}))


@pytest.mark.parametrize(
    ("changes", "version", "reference"),
    [
        ({}, "1.16.0", None),
        ({}, "0.18.0", "model"),
        ({"beta": 0.04}, "1.16.0", "model"),
        ({"beta": 0.04, "use_peft": True}, "1.16.0", "adapter"),
        ({"beta": 0.0}, "0.18.0", None),
    ],
    ids=str,
)
def test_the_reference_of_grpo_runs_where_beta_is_above_0(
    changes: dict[str, Any], version: str, reference: str | None, tmp_path: Path
) -> None:
    file = read(tmp_path, GRPO | changes, framework=f"trl=={version}")
    assert file.settings.get("reference") == reference


def test_the_rows_of_grpo_are_a_prompt_and_an_answer(tmp_path: Path) -> None:
    settings = read(tmp_path, GRPO | {"max_prompt_length": 128}).settings
    assert (settings["prompt_len"], settings["seq_len"], settings["num_generations"]) == (128, 384, 4)


def test_groups_that_several_processes_share_are_left_out(tmp_path: Path) -> None:
    assert "num_generations" not in read(tmp_path, GRPO | {"num_generations": 16}).settings


@pytest.mark.parametrize(
    ("changes", "version", "share", "is_missed"),
    [
        ({}, "1.16.0", None, False),
        ({"use_vllm": True}, "1.16.0", 0.3, False),
        ({"use_vllm": True, "vllm_gpu_memory_utilization": 0.5}, "1.16.0", 0.5, False),
        ({"use_vllm": True, "vllm_mode": "server"}, "1.16.0", None, True),
        ({"use_vllm": True}, "0.20.0", None, True),
        ({"use_vllm": True, "vllm_mode": "colocate"}, "0.17.0", 0.9, False),
    ],
    ids=str,
)
def test_vllm_has_its_share_where_it_runs_in_the_process(
    changes: dict[str, Any], version: str, share: float | None, is_missed: bool, tmp_path: Path
) -> None:
    file = read(tmp_path, GRPO | changes, framework=f"trl=={version}")
    assert file.settings.get("vllm_share") == share
    assert ("vllm_mode" in missed(file)) is is_missed


def test_axolotl_runs_the_stages_of_the_trl_that_it_pins(tmp_path: Path) -> None:
    settings = read(tmp_path, AXOLOTL | {"rl": "dpo"}).settings
    assert (settings["stage"], settings.get("loss")) == ("dpo", None)
    assert read(tmp_path, AXOLOTL | {"reward_model": True}).settings["stage"] == "reward"
    grpo = AXOLOTL | {"rl": "grpo", "sequence_len": 1024, "trl": {"max_completion_length": 256, "beta": 0.01}}
    settings = read(tmp_path, grpo).settings
    assert (settings["prompt_len"], settings["reference"]) == (768, "adapter")


@pytest.mark.parametrize(
    ("stage", "becomes", "loss", "named"),
    [
        ("dpo", "dpo", "float32", set()),
        ("kto", "kto", "float32", set()),
        ("rm", "reward", "float32", set()),
        ("ppo", None, None, {"stage"}),
    ],
)
def test_llamafactorys_stages_are_its_own(
    stage: str, becomes: str | None, loss: str | None, named: set[str], tmp_path: Path
) -> None:
    file = read(tmp_path, LLAMAFACTORY | {"stage": stage})
    assert (file.settings.get("stage"), file.settings.get("loss")) == (becomes, loss)
    assert missed(file) & {"stage", "loss"} == named


@pytest.mark.parametrize(
    ("fields", "is_missed"),
    [
        ({"finetuning_type": "full"}, False),
        ({"finetuning_type": "freeze"}, True),
        ({"finetuning_type": "full", "model_name_or_path": "Qwen/Qwen2.5-VL-7B-Instruct"}, True),
        ({"finetuning_type": "full", "pure_bf16": True}, False),
    ],
    ids=str,
)
def test_what_llamafactory_leaves_in_half_precision_is_named_where_something_is_frozen(
    fields: dict[str, Any], is_missed: bool, tmp_path: Path
) -> None:
    file = read(tmp_path, {**LLAMAFACTORY, "bf16": True, **fields})
    assert ("cast to float32" in missed(file)) is is_missed


def test_cpo_and_simpo_are_answered_with_their_own_step(tmp_path: Path) -> None:
    named = read(tmp_path, TRL | {"cpo_alpha": 1.0, "loss_type": "simpo"})
    assert (named.settings["stage"], named.settings.get("loss"), missed(named)) == ("cpo", None, set())
    assert missed(read(tmp_path, TRL | {"cpo_alpha": 0.0})) == {"cpo_alpha"}
    assert read(tmp_path, AXOLOTL | {"rl": "simpo"}).settings["stage"] == "cpo"
