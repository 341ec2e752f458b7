"""What is assumed of numbers without values, where it is said that something read it, and what needs no assumption."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

import inspector
from inspector.hardware.platform import Platform
from inspector.records.assumptions import ASSUMED, CHECKS, CHOICES, MATCHING, PLACES
from inspector.render.writers.html import render_html
from inspector.render.writers.json import render_json
from inspector.trace.tracer import Tracer
from tests.workloads.test_tasks import write

YOLOS: dict[str, Any] = {
    "model_type": "yolos",
    "architectures": ["YolosForObjectDetection"],
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "image_size": [32, 32],
    "num_detection_tokens": 10,
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "vocab_size": 8,
}


def tracer() -> Tracer:
    """Return a tracer without CUDA's rules."""
    return Tracer(Platform(torch_version=(2, 13)), on_cuda=False)


def test_numbers_within_two_bounds_are_all_taken_and_those_of_one_comparison_none() -> None:
    numbers = torch.empty(5, device="meta")
    with tracer() as trace:
        assert numbers[(numbers >= 0) & (numbers < 3)].shape == (5,)
        assert numbers[numbers < 0].shape == (0,)
        assert numbers[~((numbers > 0) & (numbers < 3))].shape == (0,)
        assert torch.where((numbers < 0.5).sum(0, keepdim=True) == 5)[0].shape == (0,)
    assert trace.assumptions.used == {PLACES}


def test_bounds_of_different_numbers_are_no_range() -> None:
    first, second = torch.empty(5, device="meta"), torch.empty(5, device="meta")
    with tracer():
        assert first[(first >= 0) & (second < 3)].shape == (0,)


def test_an_assumption_that_nothing_reads_is_not_said() -> None:
    numbers = torch.empty(5, device="meta")
    with tracer() as trace:
        finite = torch.isfinite(numbers).all()
        assert trace.assumptions.used == set()
        assert finite.logical_and(torch.ones((), dtype=torch.bool, device="meta"))
    assert trace.assumptions.used == {CHECKS}


def test_an_index_that_numbers_choose_is_the_first_and_said_where_a_shape_follows() -> None:
    codes = torch.empty(4, 6, device="meta")
    with tracer() as trace:
        chosen = codes.argmax(-1)
        assert trace.assumptions.used == set()
        assert chosen[chosen.ne(-100)].shape == (4,)
    assert trace.assumptions.used == {CHOICES}


def test_a_tensor_is_equal_to_itself_and_to_a_copy_of_the_same_part() -> None:
    layers = torch.empty(2, 3, 4, device="meta")
    with tracer() as trace:
        rows = layers * 1
        last, again = rows.transpose(0, 1)[-1], rows[:, -1]
        assert torch.equal(last, again)
        assert torch.equal(last.reshape(-1), again.reshape(-1))
        assert trace.assumptions.used == set()
        assert not torch.equal(rows[:, 0].reshape(-1), again.reshape(-1))
    assert trace.assumptions.used == {CHECKS}


def test_a_value_ends_where_a_number_without_one_is_written_into_its_memory() -> None:
    unknown = torch.empty(2, 2, device="meta")
    with tracer():
        boxes = torch.zeros(2, 4, device="meta")
        assert not boxes.any()
        boxes[:, :2] = unknown
        with pytest.raises(RuntimeError, match="meta"):
            boxes.any().item()


def test_a_mask_that_lay_beside_keys_is_still_the_mask() -> None:
    keys = torch.empty(1, 3, 2, device="meta")
    with tracer():
        mask = torch.ones(1, 3, 1, device="meta")
        packed = torch.cat([torch.empty(0, device="meta"), torch.cat([keys, mask], dim=-1)], dim=1)
        assert packed[..., -1].bool().all()
        assert torch.split(packed, [2, 1], dim=-1)[1].all()
        with pytest.raises(RuntimeError, match="meta"):
            packed[..., 0].sum().item()


@pytest.mark.filterwarnings("ignore")
def test_a_report_says_in_every_form_what_its_trace_assumed(tmp_path: Path) -> None:
    report = inspector.inspect(write(tmp_path, **YOLOS), offline=True, assume_defaults=True, dtype="float32")
    notices = {notice.code: notice.message for notice in report.warnings}
    assert {CHECKS, MATCHING} <= notices.keys()
    assert notices[MATCHING] == ASSUMED[MATCHING]
    as_json = io.StringIO()
    render_json(report, as_json)
    for text in (str(report), as_json.getvalue(), render_html(report)):
        assert "checks are taken to pass" in " ".join(text.split())


@pytest.mark.filterwarnings("ignore")
def test_a_report_whose_trace_assumed_nothing_says_nothing_of_it(tmp_path: Path) -> None:
    report = inspector.inspect(write(tmp_path, **LLAMA), offline=True, assume_defaults=True, dtype="float32")
    assert report.training is not None
    assert not {notice.code for notice in report.warnings} & ASSUMED.keys()
