"""A rank takes the batches that one card takes: those of lists of objects among them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.running import run

DETECTOR = {
    "model_type": "yolos",
    "architectures": ["YolosForObjectDetection"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "image_size": [64, 64],
    "num_detection_tokens": 10,
}


def test_objects_are_matched_in_turn_on_each_rank_as_on_one_card(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DETECTOR), encoding="utf-8")
    steps = []
    for gpu in ("4090", "2x4090"):
        ran = run(str(tmp_path), "--gpu", gpu, "--offline", "--no-advice", "--json")
        assert ran.code == 0, ran.err
        report = json.loads(ran.out)
        assert "matching-assumed" in {item["code"] for item in report["warnings"]}
        steps.append(report["training"])
    alone, rank = steps
    assert rank["ranks"]["world_size"] == 2
    assert rank["peak"]["breakdown"]["inputs"] == alone["peak"]["breakdown"]["inputs"]
    assert rank["peak"]["breakdown"]["communication"] > 0  # buckets of gradients
