"""Every model of the catalogue has a batch to train on, but for those without a loss; small ones are traced whole."""

from __future__ import annotations

from typing import Any

import pytest

import inspector
from inspector.model.build import count_model
from inspector.records.request import Request
from inspector.source import catalogue
from inspector.source.locate import locate
from inspector.workloads.base import NotTraceableError
from inspector.workloads.batch import make_batch_inputs
from tests.workloads.tracing import resolve

# BART names a base model in its configuration; embedding models do, too, and have the loss that they are trained with.
WITHOUT_LOSS = {"facebook/bart-large"}
LORA = {"peft_type": "LORA", "r": 8, "target_modules": "all-linear"}


@pytest.mark.parametrize("name", catalogue.list_ids())
@pytest.mark.one_of(3)
def test_a_catalogue_entry_has_a_batch_or_no_loss(name: str) -> None:
    model = count_model(Request(model=name, offline=True), locate(name, revision=None, offline=True))[1]
    assert model is not None
    if name in WITHOUT_LOSS:
        with pytest.raises(NotTraceableError, match="no loss to train on; the same model with a head is `model_class="):
            resolve(model.model, inspector.Recipe())
    else:
        recipe = resolve(model.model, inspector.Recipe())
        assert recipe.seq_len is None or 77 <= recipe.seq_len <= 1024
        pairs = "positive_input_ids" in make_batch_inputs(model.model, recipe)
        assert pairs is (name in {"BAAI/bge-m3", "sentence-transformers/all-MiniLM-L6-v2"})


@pytest.mark.parametrize(
    ("name", "changes", "seq_len", "peft"),
    [
        ("google-t5/t5-small", {}, 1024, None),
        ("google-t5/t5-small", {}, 1024, LORA),
        ("facebook/bart-large", {"model_class": "BartForConditionalGeneration"}, 1024, LORA),
        ("distilbert/distilbert-base-uncased", {}, 512, None),
        ("FacebookAI/roberta-large", {}, 512, LORA),
        ("microsoft/deberta-v3-base", {}, 1024, LORA),
        ("sentence-transformers/all-MiniLM-L6-v2", {}, 512, None),
        ("sentence-transformers/all-MiniLM-L6-v2", {}, 512, LORA),
        ("google/vit-base-patch16-224", {}, None, None),
        ("google/vit-base-patch16-224", {}, None, LORA),
        ("openai/clip-vit-base-patch32", {}, 77, LORA),
        ("openai/whisper-small", {}, 448, LORA),
    ],
)
@pytest.mark.one_of(3)
def test_small_models_of_each_kind_are_traced(
    name: str, changes: dict[str, Any], seq_len: int | None, peft: dict[str, Any] | None
) -> None:
    report = inspector.inspect(name, offline=True, peft=peft, gpu="a100-80gb", advice=False, **changes)
    assert report.training is not None, report.warnings
    assert report.training.recipe.seq_len == seq_len
    assert report.training.peak_allocated_bytes > report.parameters.bytes
