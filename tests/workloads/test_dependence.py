"""Whether a batch of one that is accumulated is the same training, and what is advised where it is not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import transformers

import inspector
from inspector.records.recipe import Recipe
from inspector.workloads.training.dependence import find_dependence
from tests.trace.small_models import COMMON

LLAMA = transformers.LlamaConfig(architectures=["LlamaForCausalLM"], **COMMON)
VIT: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT: dict[str, Any] = {**VIT, "vocab_size": 64, "eos_token_id": 2}
CLIP = transformers.CLIPConfig(
    architectures=["CLIPModel"], text_config=TEXT, vision_config={**VIT, "image_size": 32, "patch_size": 16}
)
RESNET = transformers.ResNetConfig(
    architectures=["ResNetForImageClassification"], embedding_size=8, hidden_sizes=[8], depths=[1]
)
BERT = transformers.BertConfig(architectures=["BertModel"], **COMMON)


@pytest.mark.parametrize(
    ("config", "recipe", "says"),
    [
        (LLAMA, {}, None),
        (LLAMA, {"stage": "dpo"}, None),
        (LLAMA, {"stage": "kto"}, "another loss: its KL is estimated from fewer sequences"),
        (LLAMA, {"loss": "chunked"}, None),
        (BERT, {}, "another loss: fewer negatives"),
        (CLIP, {}, "another loss: fewer pairs to tell apart"),
        (RESNET, {}, "other statistics in its batch norms"),
    ],
    ids=["tokens", "pairs of answers", "KTO", "a chunked loss", "negatives", "texts and images", "batch norms"],
)
def test_what_a_smaller_batch_is_beside_smaller_is_known(config: Any, recipe: dict[str, Any], says: str | None) -> None:
    assert (
        find_dependence(getattr(transformers, config.architectures[0])(config), Recipe(batch_size=4, **recipe)) == says
    )


def test_half_the_batch_of_pairs_is_advised_with_what_it_changes() -> None:
    """Nothing else fits, and a batch of one with accumulation is never offered."""
    recipe = inspector.Recipe(batch_size=64, seq_len=256, gradient_checkpointing=True, optimizer="sgd")
    half = inspector.inspect(
        BERT, recipe=dataclasses.replace(recipe, batch_size=32), gpu_memory="24GiB", advice=False
    ).memory
    assert half is not None
    room = f"{half.total_bytes / 2**20 + 1}MiB"
    report = inspector.inspect(BERT, recipe=recipe, gpu_memory=room, margin="0")
    assert report.fit is not None
    advice = report.fit[0].advice or ()
    assert ("--batch-size 32", "another loss: fewer negatives") in [(item.change, item.but) for item in advice]
    assert not any("--gradient-accumulation" in item.change for item in advice)
    assert "--batch-size 32 (another loss: fewer negatives)" in " ".join(str(report).split())
