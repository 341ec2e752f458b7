"""`labels` and `frames`: what a recipe changes of a configuration before its model is built."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import inspector

_SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def test_labels_are_rows_of_the_head_of_a_classifier() -> None:
    config: Any = transformers.BertConfig(**_SMALL, vocab_size=32)
    asked: Any = {"model_class": "BertForSequenceClassification", "count_only": True}
    two, seven = (inspector.inspect(config, recipe={"labels": count}, **asked).parameters.total for count in (2, 7))
    assert seven - two == 5 * (16 + 1)
    fields: dict[str, Any] = {**_SMALL, "vocab_size": 32, "num_labels": 7}
    real = transformers.BertForSequenceClassification(transformers.BertConfig(**fields))
    assert seven == real.num_parameters()
    assert config.num_labels == 2


def test_frames_are_those_of_the_videos_of_the_batch() -> None:
    config: Any = transformers.VideoMAEConfig(**_SMALL, image_size=32, num_frames=4)
    config.architectures = ["VideoMAEForVideoClassification"]
    report = inspector.inspect(config, recipe={"frames": 8, "labels": 3})
    assert report.training is not None
    shapes = {item.name: tuple(item.shape) for item in report.training.inputs or ()}
    assert shapes["pixel_values"] == (1, 8, 3, 32, 32)
    assert "videos of 8 frames, 3 labels" in " ".join(str(report).split())


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"labels": 10**9}, "at most 1,000,000"),
        ({"labels": 0}, "labels"),
        ({"frames": 10**6}, "at most 4,096"),
        ({"labels": 3}, "BertForMaskedLM has no head with a row for each label"),
        ({"frames": 3}, "has no number of frames"),
    ],
)
def test_what_a_class_has_not_is_refused(recipe: dict[str, int], says: str) -> None:
    config: Any = transformers.BertConfig(**_SMALL, vocab_size=32, architectures=["BertForMaskedLM"])
    with pytest.raises(inspector.UsageError, match=says):
        inspector.inspect(config, recipe=recipe)


def test_a_model_that_is_built_keeps_its_head() -> None:
    with torch.device("meta"):
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**_SMALL, vocab_size=32))
    with pytest.raises(inspector.UsageError, match="is built already"):
        inspector.inspect(model, recipe={"labels": 3})
