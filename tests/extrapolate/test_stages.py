"""Steps of the stages, extrapolated from shallow models and resized: equal to those of whole models, event by event."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from inspector.records.recipe import Recipe
from tests.extrapolate.test_deep_models import LORA, predictor_of, request, run_of, whole_tape

MODEL = "meta-llama/Llama-3.2-1B"
USUAL: dict[str, Any] = {"seq_len": 64, "batch_size": 2, "mixed_precision": "bf16", "gradient_checkpointing": True}


@pytest.mark.parametrize(
    ("stage", "others", "peft"),
    [
        ("dpo", {}, None),
        ("kto", {}, LORA),
        ("orpo", {}, LORA),
        ("grpo", {"reference": "adapter", "gradient_accumulation": 2}, LORA),
    ],
    ids=["dpo", "kto", "orpo", "grpo"],
)
@pytest.mark.one_of(2)
def test_a_stage_of_a_deep_model_follows_from_shallow_ones(stage: str, others: dict[str, Any], peft: Any) -> None:
    asked = request(MODEL, Recipe(stage=stage, **USUAL, **others), peft=peft)
    predictor = predictor_of(asked)
    first = predictor.predict(run_of(asked))
    assert len(first.tape) > len(first.template.traced)
    assert list(first.tape) == whole_tape(asked)
    larger = dataclasses.replace(asked, recipe=dataclasses.replace(asked.recipe, batch_size=3))
    assert list(predictor.predict(run_of(larger)).tape) == whole_tape(larger)
