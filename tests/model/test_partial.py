"""Part of a model trains, and its tables of tokens gain rows: counts, the traced step, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import inspector
from inspector.errors import UsageError
from inspector.model.changes.partial import change_model
from inspector.records.recipe import Recipe
from inspector.records.tape import Phase
from tests.model.tiny import LLAMA_LAYER, LLAMA_TIED, LLAMA_UNTIED, llama


def count(recipe: Recipe, peft: Any = None, **changes: Any) -> inspector.Report:
    """Return the counts of a tiny model."""
    return inspector.inspect(llama(**changes), recipe=recipe, peft=peft, count_only=True)


@pytest.mark.parametrize(
    ("patterns", "trained"),
    [
        ("last=2", 2 * LLAMA_LAYER),
        ("first=1", LLAMA_LAYER),
        ("last=99", 3 * LLAMA_LAYER),
        (["lm_head"], 1_024),
        (["last=1", "^lm_head", r"model\.norm"], LLAMA_LAYER + 1_024 + 16),
        ([r"layers\.1\.mlp"], 1_536),
    ],
    ids=str,
)
def test_what_a_pattern_is_found_in_trains_and_all_else_is_frozen(patterns: Any, trained: int) -> None:
    parameters = count(Recipe(train_only=patterns)).parameters
    assert (parameters.trainable, parameters.total) == (trained, LLAMA_UNTIED)


def test_layers_before_the_first_that_trains_keep_nothing_for_the_backward_pass() -> None:
    kept = []
    for only in (None, "last=2", "last=1"):
        recipe = Recipe(seq_len=256, train_only=only, optimizer="sgd")
        training = inspector.inspect(llama(num_hidden_layers=12), recipe=recipe).training
        assert training is not None
        ends = {phase.name: phase.end_allocated_bytes for phase in training.phases}
        kept.append(ends[Phase.FORWARD] - ends[Phase.LOAD])
        assert training.recipe.train_only == (None if only is None else (only,))
    whole, two, one = kept
    assert whole - one > 10 * (two - one) > 0


@pytest.mark.parametrize("tied", [False, True])
def test_added_tokens_are_rows_of_the_embedding_and_of_the_head(tied: bool) -> None:
    parameters = count(Recipe(add_tokens=64), tie_word_embeddings=tied).parameters
    whole = LLAMA_TIED if tied else LLAMA_UNTIED
    assert parameters.base == whole + (1 if tied else 2) * 64 * 16
    lora = inspector.LoraOptions(r=2, targets=["q_proj"], modules_to_save=["embed_tokens"])
    beside = count(Recipe(add_tokens=64), lora, tie_word_embeddings=tied).parameters
    assert beside.trainable == 3 * 2 * (16 + 16) + (64 + 64) * 16


def test_a_resized_model_is_the_one_that_transformers_makes() -> None:
    with torch.device("meta"):
        model: Any = transformers.LlamaForCausalLM._from_config(llama())
    real: Any = transformers.LlamaForCausalLM(llama())
    real.resize_token_embeddings(64 + 8)
    change_model(model, Recipe(add_tokens=8), has_adapter=False)
    ours = {name: (item.shape, item.dtype) for name, item in model.named_parameters()}
    assert {name: item[0] for name, item in ours.items()} == {
        name: item.shape for name, item in real.named_parameters()
    }
    assert {item[1] for item in ours.values()} == {torch.bfloat16}
    assert model.config.vocab_size == real.config.vocab_size == 72


@pytest.mark.parametrize(
    ("recipe", "peft", "says"),
    [
        (Recipe(train_only="encoder"), None, "`train_only` matches no parameter of LlamaForCausalLM"),
        (Recipe(train_only="("), None, "`train_only` '\\(' is not a regular expression; correct it"),
        (Recipe(train_only=r"(([a-z0-9_.]+)+)+!"), None, "too involved a pattern"),
        (Recipe(train_only="last=1"), inspector.LoraOptions(r=2), "an adapter freezes its base"),
    ],
    ids=str,
)
def test_what_cannot_train_alone_is_one_line(recipe: Recipe, peft: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        count(recipe, peft)


def test_a_model_of_images_has_no_tokens_to_add() -> None:
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(UsageError, match="`add_tokens` makes a table of tokens larger, and ViTForImage"):
        inspector.inspect(config, model_class="ViTForImageClassification", recipe=Recipe(add_tokens=1), count_only=True)
