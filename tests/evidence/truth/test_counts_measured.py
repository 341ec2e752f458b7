"""Counts and adapter files that others measured with real weights, held against ours; the tolerance is 0."""

from __future__ import annotations

from typing import Any

import pytest

import inspector
from tests.evidence.truth.records import Measured, load

COUNTED = [row for row in load() if "counts" in row.record]


def count(model: Any, peft: Any) -> inspector.Report:
    """Return what is counted of a model with an adapter, without a step of it."""
    return inspector.inspect(model, peft=peft, count_only=True, offline=True)


def test_truth_rows_with_counts_exist() -> None:
    assert len(COUNTED) == 5


@pytest.mark.parametrize("row", COUNTED, ids=lambda row: row.name)
def test_a_measured_run_has_our_counts_and_our_adapter_file(row: Measured) -> None:
    report = count(row.request.model, row.request.peft)
    counts = row.record["counts"]
    assert report.parameters.trainable == counts["trainable"]
    assert report.parameters.total == counts["total"]
    assert (report.adapter.file_bytes if report.adapter else None) == counts.get("adapter_file_bytes")


def test_qwq_32b_has_the_published_count_and_the_known_lora_counts() -> None:
    # r * (in + out) of seven linear layers, hidden 5,120, KV width 1,024, intermediate 27,648, 64 layers.
    layer = 16 * (2 * (5_120 + 5_120) + 2 * (5_120 + 1_024) + 3 * (5_120 + 27_648))
    report = count("Qwen/QwQ-32B", {"peft_type": "LORA", "r": 16, "target_modules": "all-linear"})
    assert report.parameters.base == 32_763_876_352
    assert report.parameters.trainable == 64 * layer == 134_217_728


def test_qwq_32b_with_saved_modules_copies_the_head_whole_and_names_the_typo() -> None:
    adapter = {
        "peft_type": "LORA",
        "r": 16,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "modules_to_save": ["lm_head", "embed_token"],
    }
    report = count("Qwen/QwQ-32B", adapter)
    # the head is 152,064 tokens x 5,120
    assert report.parameters.trainable == 134_217_728 + 152_064 * 5_120 == 912_785_408
    messages = {notice.code: notice.message for notice in report.warnings}
    assert "'embed_token'" in messages["modules-to-save-unmatched"]
    assert "Did you mean 'embed_tokens'?" in messages["modules-to-save-unmatched"]


@pytest.mark.parametrize(
    ("model", "trainable"),
    [("mistralai/Mixtral-8x7B-v0.1", 359_665_664), ("Qwen/Qwen3-30B-A3B", 996_507_648)],
)
def test_all_linear_on_experts_follows_the_installed_peft(model: str, trainable: int) -> None:
    peft = pytest.importorskip("peft")
    if not peft.__version__.startswith("0.21."):
        pytest.skip("which expert parameters all-linear reaches depends on PEFT; these counts are those of 0.21")
    report = count(model, {"peft_type": "LORA", "r": 16, "target_modules": "all-linear"})
    assert report.parameters.trainable == trainable
