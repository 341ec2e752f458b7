"""The headers of a quantized checkpoint on the Hub are held against its format, as those of a directory are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import inspector

from .loopback_hub import LoopbackHub
from .weight_files import sharded

RECORD = Path(__file__).parents[1] / "model" / "recorded_stored.json"
GPTQ: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))["formats"]["gptq 4 bits, groups of 128"]


def hosted(hub: LoopbackHub, tensors: dict[str, Any]) -> dict[str, bytes]:
    """Host a checkpoint of three files and return them."""
    files = {name: (each[0], tuple(each[1])) for name, each in tensors.items()}
    content = {"config.json": json.dumps(GPTQ["config"]).encode(), **sharded(3, files)}
    hub.host("org/model", content)
    return content


def test_sharded_headers_on_the_hub_are_what_the_format_says(hub: LoopbackHub) -> None:
    hosted(hub, GPTQ["tensors"])
    report = inspector.inspect("org/model", count_only=True)
    assert report.checkpoint is not None
    found = report.checkpoint.by_format
    assert found is not None
    assert found.differences == ()
    assert found.expected_bytes == found.stored_bytes == report.checkpoint.tensor_bytes
    assert report.quantization is not None
    assert report.quantization.stored_bytes == found.stored_bytes


def test_a_tensor_that_is_otherwise_on_the_hub_is_named(hub: LoopbackHub) -> None:
    name = "model.layers.0.mlp.up_proj.scales"
    hosted(hub, {**GPTQ["tensors"], name: ["F32", [2, 640]]})
    report = inspector.inspect("org/model", count_only=True)
    assert report.checkpoint is not None
    found = report.checkpoint.by_format
    assert found is not None
    assert [(each.names, each.expected_dtype, each.stored_dtype) for each in found.differences] == [
        ((name,), "F16", "F32")
    ]
    assert found.stored_bytes - found.expected_bytes == 2 * 640 * 2
    assert any(f"{name} is of another size" in notice.message for notice in report.warnings)
