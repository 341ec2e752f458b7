"""Batches: what a kind of model is fed, and how long its rows may be."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import transformers

import inspector
from inspector.workloads.batch import BatchError, Input, find_longest_sequence, make_batch_inputs
from tests.trace.small_models import RECIPE, SMALL, build
from tests.workloads.tracing import resolve

ENCODER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def bert(head: str, **changes: Any) -> Any:
    """Return a small encoder with a head, on meta."""
    with torch.device("meta"):
        return getattr(transformers, f"BertFor{head}")(transformers.BertConfig(**ENCODER, **changes))


def inputs(model: Any, **changes: Any) -> dict[str, Any]:
    """Return the batch of two rows of four tokens."""
    recipe = inspector.Recipe(batch_size=2, seq_len=4, padding=False)
    return dict(make_batch_inputs(model, dataclasses.replace(recipe, **changes)))


@pytest.mark.parametrize(
    "name",
    ["gpt2", "opt", "bert", "roberta", "distilbert", "electra", "albert", "mpnet", "bart", "clip", "whisper"],
)
@pytest.mark.filterwarnings("ignore")
def test_the_longest_sequence_runs_and_one_token_more_does_not(name: str) -> None:
    model, _ = build("cpu", name)
    longest = find_longest_sequence(model)
    assert longest
    for length in (longest, longest + 1):
        recipe = dataclasses.replace(RECIPE, seq_len=length)
        batch = {
            key: item.on("cpu") if isinstance(item, Input) else item
            for key, item in make_batch_inputs(model, recipe).items()
        }
        if length == longest:
            assert model(**batch)["loss"].isfinite()
        else:
            with pytest.raises((IndexError, RuntimeError, ValueError)):
                model(**batch)


@pytest.mark.parametrize("name", ["llama", "t5", "deberta-v2", "mixtral"])
def test_relative_and_rotary_positions_do_not_bound_a_sequence(name: str) -> None:
    assert find_longest_sequence(build("meta", name)[0]) is None


def test_the_virtual_tokens_of_a_prompt_method_take_positions_too() -> None:
    import peft

    model = bert("MaskedLM", max_position_embeddings=64)
    config = peft.PromptTuningConfig(num_virtual_tokens=8)
    assert resolve(peft.PeftModel(model, config), inspector.Recipe(seq_len=100)).seq_len == 64 - 8


def test_labels_of_a_sequence_follow_the_problem_type() -> None:
    labels = inputs(bert("SequenceClassification", num_labels=3))["labels"]
    assert labels == Input(shape=(2,))
    labels = inputs(bert("SequenceClassification", num_labels=1))["labels"]
    assert labels == Input(shape=(2,), dtype=torch.float32)
    labels = inputs(bert("SequenceClassification", num_labels=3, problem_type="multi_label_classification"))["labels"]
    assert labels == Input(shape=(2, 3), dtype=torch.float32)


def test_a_padded_batch_has_a_mask_and_a_label_that_does_not_count() -> None:
    batch = inputs(bert("MaskedLM"), padding=True)
    mask, labels = batch["attention_mask"], batch["labels"]
    assert isinstance(mask, Input)
    assert isinstance(labels, Input)
    assert mask.on("cpu").tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert labels.on("cpu")[-1, -1] == -100
    assert "attention_mask" not in inputs(bert("MaskedLM"))


def test_no_token_of_a_batch_is_special() -> None:
    ids = inputs(bert("MaskedLM", pad_token_id=0, bos_token_id=1, eos_token_id=[2, 4]))["input_ids"]
    assert isinstance(ids, Input)
    assert ids.value == 3


def test_each_row_of_an_encoder_decoder_that_classifies_ends_with_the_token_that_it_looks_for() -> None:
    config = transformers.BartConfig(**SMALL["bart"].fields)
    with torch.device("meta"):
        model = transformers.BartForSequenceClassification(config)
    ids = make_batch_inputs(model, RECIPE)["input_ids"]
    assert isinstance(ids, Input)
    rows = ids.on("cpu")
    assert isinstance(config.eos_token_id, int)
    assert rows.eq(config.eos_token_id).sum(-1).tolist() == [1] * RECIPE.batch_size
    assert rows[:, -1].tolist() == [config.eos_token_id] * RECIPE.batch_size


def test_an_encoder_decoder_that_names_no_end_of_a_sequence_cannot_classify_any() -> None:
    config = transformers.BartConfig(**{**SMALL["bart"].fields, "eos_token_id": None})
    with torch.device("meta"):
        model = transformers.BartForSequenceClassification(config)
    with pytest.raises(BatchError, match="names no such token"):
        make_batch_inputs(model, RECIPE)


@pytest.mark.parametrize("changes", [{"batch_size": 10**6, "seq_len": 512}, {"batch_size": 2**31 - 1}])
def test_a_batch_beyond_all_memory_is_described_or_refused_without_making_it(changes: dict[str, Any]) -> None:
    config = transformers.BertConfig(architectures=["BertForMaskedLM"], **ENCODER)
    report = inspector.inspect(config, recipe=inspector.Recipe(padding=False, **changes))
    assert report.training is not None or "not-traced" in {notice.code for notice in report.warnings}
