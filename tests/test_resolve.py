"""What a recipe may ask for, and where the allocator's settings come from."""

from __future__ import annotations

import pytest

from inspector.errors import UsageError
from inspector.memory.allocator.settings import MIB, AllocatorSettings
from inspector.memory.textbook import list_activation_rules
from inspector.records.memory import BlockShape
from inspector.records.recipe import Recipe
from inspector.resolve import find_allocator_settings, settle_recipe


def test_a_reentrant_setting_without_gradient_checkpointing_is_refused() -> None:
    with pytest.raises(UsageError, match="add `gradient_checkpointing`"):
        settle_recipe(Recipe(use_reentrant=True))
    assert settle_recipe(Recipe(use_reentrant=True, gradient_checkpointing=True)).use_reentrant


@pytest.mark.parametrize(
    ("asked", "checkpointing", "filled"), [(None, False, False), (True, False, True), (True, True, False)]
)
def test_the_cache_is_off_as_in_trainer_and_never_filled_by_blocks_that_run_twice(
    asked: bool | None, checkpointing: bool, filled: bool
) -> None:
    assert settle_recipe(Recipe(use_cache=asked, gradient_checkpointing=checkpointing)).use_cache is filled


@pytest.mark.parametrize(
    ("asked", "environment", "split_mib"),
    [
        ("max_split_size_mb:64", {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:32"}, 64),
        (None, {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:32", "PYTORCH_ALLOC_CONF": "max_split_size_mb:48"}, 32),
        (None, {"PYTORCH_ALLOC_CONF": "max_split_size_mb:48"}, 48),
    ],
)
def test_what_is_asked_for_goes_before_the_environment_and_the_name_for_cuda_before_the_general_one(
    asked: str | None, environment: dict[str, str], split_mib: int
) -> None:
    settings, recipe = find_allocator_settings(Recipe(alloc_conf=asked), environment)
    assert settings.max_split_bytes == split_mib * MIB
    assert recipe.alloc_conf == f"max_split_size_mb:{split_mib}"


@pytest.mark.parametrize("text", [None, "", "expandable_segments:False", "garbage_collection_threshold:0.8"])
def test_allocator_settings_equal_to_the_defaults_are_left_out_of_the_recipe(text: str | None) -> None:
    settings, recipe = find_allocator_settings(Recipe(alloc_conf=text), {})
    assert settings == AllocatorSettings()
    assert recipe.alloc_conf is None


def test_an_error_names_where_a_bad_allocator_setting_stands() -> None:
    with pytest.raises(UsageError, match=r"^PYTORCH_ALLOC_CONF: unknown allocator setting 'x'"):
        find_allocator_settings(Recipe(), {"PYTORCH_ALLOC_CONF": "x:1"})
    with pytest.raises(UsageError, match=r"^`alloc_conf`: .* at least 20, not 1"):
        find_allocator_settings(Recipe(alloc_conf="max_split_size_mb:1"), {"PYTORCH_ALLOC_CONF": "x:1"})


SHAPE = BlockShape(hidden_size=100, layer_count=3, head_count=4)


def test_rules_for_activations_without_the_attention_matrix() -> None:
    rules = list_activation_rules(Recipe(batch_size=2, seq_len=10), SHAPE, 250_000)
    # 34 x 2 x 10 x 100 x 3 = 204,000 and 22 x 2 x 10 x 100 x 3 = 132,000.
    assert [(rule.formula, rule.bytes) for rule in rules] == [("34·B·S·H·L", 204_000), ("22·B·S·H·L", 132_000)]
    assert [sum(item.bytes for item in rule.differences) for rule in rules] == [46_000, 118_000]


@pytest.mark.parametrize("recipe", [Recipe(attention="eager", seq_len=10), Recipe(sdpa_backend="math", seq_len=10)])
def test_rules_for_activations_with_the_attention_matrix(recipe: Recipe) -> None:
    rules = list_activation_rules(recipe, SHAPE, 0)
    # 34 x 10 x 100 x 3 + 5 x 4 x 10 x 10 x 3 = 102,000 + 6,000; 22 x 10 x 100 x 3 + 2 x 10 x 10 x 3 x 2 = 67,200.
    assert [rule.bytes for rule in rules] == [108_000, 67_200]


def test_no_rule_describes_checkpointing() -> None:
    assert list_activation_rules(Recipe(gradient_checkpointing=True), SHAPE, 0) == ()
