"""Configurations of timm are read as transformers' class for timm reads them, and load nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import inspector
from inspector.errors import UnsupportedModelError
from inspector.records.source import ServedFrom, SourceFiles
from inspector.source.recognize.timm import adapt_timm

RESNET = {
    "architecture": "resnet18.a1_in1k",
    "num_classes": 1000,
    "num_features": 512,
    "pretrained_cfg": {"tag": "a1_in1k", "input_size": [3, 160, 192]},
}
IS_HERE = importlib.util.find_spec("timm") is not None


def adapt(**config: Any) -> dict[str, Any]:
    """Return a configuration as it is read."""
    return dict(adapt_timm(SourceFiles(id="timm/model", served_from=ServedFrom.HUB, config=config)).config)


def test_a_configuration_of_timm_names_transformers_class_and_the_size_of_its_images() -> None:
    adapted = adapt(**RESNET)
    assert adapted.pop("model_type") == "timm_wrapper"
    assert adapted.pop("architectures") == ["TimmWrapperForImageClassification"]
    assert adapted.pop("image_size") == [160, 192]
    assert adapted == RESNET


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "architecture": "resnet18", "num_features": 3},
        {"architecture": "resnet18"},
        {"architectures": ["BertModel"], "architecture": "x", "pretrained_cfg": {}},
        {},
    ],
)
def test_any_other_configuration_stays_as_it_is(config: dict[str, Any]) -> None:
    assert adapt(**config) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "hf-hub:org/model"}, "is no name of a timm model"),
        ({"architecture": "local-dir:/tmp/x"}, "is no name of a timm model"),
        ({"model_args": {"checkpoint_path": "/tmp/x.pth"}}, "would have timm load files"),
        ({"model_args": {"pretrained": True}}, "would have timm load files"),
        ({"model_args": 3}, "would have timm load files"),
    ],
)
def test_a_configuration_that_would_have_timm_load_files_is_refused(fields: dict[str, Any], message: str) -> None:
    for config in ({**RESNET, **fields}, {"model_type": "timm_wrapper", **fields}):
        with pytest.raises(UnsupportedModelError, match=message) as refused:
            adapt(**config)
        assert "\n" not in str(refused.value)


@pytest.mark.skipif(IS_HERE, reason="timm is installed")
def test_a_timm_model_says_which_package_it_needs(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RESNET))
    with pytest.raises(UnsupportedModelError, match="run `pip install timm`"):
        inspector.inspect(str(tmp_path), count_only=True)


@pytest.mark.skipif(not IS_HERE, reason="timm is an extra")
def test_a_timm_model_counts_what_is_published_and_its_step_is_traced(tmp_path: Path) -> None:
    """https://huggingface.co/timm/resnet18.a1_in1k has 11.7 M parameters."""
    (tmp_path / "config.json").write_text(json.dumps(RESNET))
    report = inspector.inspect(str(tmp_path))
    assert report.parameters.base == 11_689_512
    assert report.training is not None
    assert [item.shape for item in report.training.inputs or () if item.name == "pixel_values"] == [(1, 3, 160, 192)]
