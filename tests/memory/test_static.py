"""Static bytes and the rules of thumb beside them."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from inspector.memory.static import count_static_bytes
from inspector.memory.textbook import list_textbook_rules
from inspector.records.memory import StaticBytes, StaticRecipe
from inspector.records.model import Census, Role

SIZES = st.integers(0, 10**12)
NO_STATE = StaticRecipe(frozen_bytes=0, trained_bytes=200, gradients_bytes=200, optimizer_bytes=0, buffers_bytes=0)


def census(base: int, adapter: int, *, base_size: int, adapter_size: int, buffer_bytes: int = 0) -> Census:
    """Return a census of a base in one dtype and an adapter in another; sizes are bytes of an element."""
    dtypes = {1: "int8", 2: "bfloat16", 4: "float32"}
    sizes: dict[str, int] = {dtypes[base_size]: base * base_size}
    sizes[dtypes[adapter_size]] = sizes.get(dtypes[adapter_size], 0) + adapter * adapter_size
    return Census(
        base=base,
        total=base + adapter,
        trainable=adapter,
        buffers=0,
        buffer_bytes=buffer_bytes,
        groups={Role.OTHER: base, Role.ADAPTER: adapter},
        dtypes=sizes,
        trainable_dtypes={dtypes[adapter_size]: adapter * adapter_size},
    )


def count(
    base_dtypes: dict[str, int], counted: Census, *, has_adapter: bool, base_buffer_bytes: int = 0, **frozen: int
) -> StaticBytes:
    """Return the static bytes with AdamW: two moments in the dtype of what trains."""
    trained = sum(base_dtypes.values()) - frozen.get("base_frozen_bytes", 0)
    return count_static_bytes(
        base_dtypes,
        counted,
        optimizer="adamw_torch",
        full_state_bytes=2 * trained,
        adapter_state_bytes=2 * sum(counted.trainable_dtypes.values()) if has_adapter else None,
        base_buffer_bytes=base_buffer_bytes,
        **frozen,
    )


def test_full_fine_tuning_in_bfloat16_takes_eight_bytes_a_parameter() -> None:
    static = count(
        {"bfloat16": 200}, census(100, 0, base_size=2, adapter_size=2), base_buffer_bytes=0, has_adapter=False
    )
    assert static.adapter is None
    assert static.full.total_bytes == 8 * 100


def test_an_adapter_in_float32_takes_sixteen_bytes_a_parameter_and_two_of_the_base() -> None:
    counted = census(100, 10, base_size=2, adapter_size=4, buffer_bytes=7)
    static = count({"bfloat16": 200}, counted, base_buffer_bytes=0, has_adapter=True)
    assert static.adapter is not None
    assert static.adapter.frozen_bytes == 200
    assert static.adapter.total_bytes == 200 + 16 * 10 + 7


def test_the_rule_for_full_fine_tuning_differs_by_its_float32_moments() -> None:
    counted = census(100, 0, base_size=2, adapter_size=2)
    static = count({"bfloat16": 200}, counted, base_buffer_bytes=0, has_adapter=False)
    (rule,) = list_textbook_rules(static, counted, {"bfloat16": 200}, {}).rules
    assert (rule.formula, rule.bytes, rule.exact_bytes) == ("12·P", 1200, 800)
    (difference,) = rule.differences
    assert difference.bytes == -400
    assert "bfloat16" in difference.cause


def test_the_rule_for_an_adapter_differs_by_weights_and_gradients_in_float32() -> None:
    counted = census(100, 10, base_size=2, adapter_size=4)
    static = count({"bfloat16": 200}, counted, base_buffer_bytes=0, has_adapter=True)
    _, rule = list_textbook_rules(static, counted, {"bfloat16": 200}, {}).rules
    assert rule.bytes == 12 * 10 + 2 * 100
    assert [difference.bytes for difference in rule.differences] == [20, 20]


def test_parts_of_the_base_that_train_are_named_as_what_the_rule_counts_twice() -> None:
    # 10 of 100 elements of the base train (bias="all") beside 5 of the adapter, all in bfloat16
    counted = dataclasses.replace(
        census(100, 5, base_size=2, adapter_size=2), trainable=15, trainable_dtypes={"bfloat16": 30}
    )
    static = count({"bfloat16": 200}, counted, base_buffer_bytes=0, has_adapter=True)
    _, rule = list_textbook_rules(static, counted, {"bfloat16": 200}, {}).rules
    assert [(item.cause.partition(";")[0], item.bytes) for item in rule.differences] == [
        ("Parts of the base train", -20),
        ("AdamW's moments are in bfloat16 like the weights they belong to", -60),
    ]


def test_the_rules_of_thumb_are_of_adamw_whatever_the_recipe_has() -> None:
    counted = census(100, 0, base_size=2, adapter_size=2)
    static = dataclasses.replace(count({"bfloat16": 200}, counted, has_adapter=False), optimizer="sgd", full=NO_STATE)
    assert static.full.total_bytes == 400
    (rule,) = list_textbook_rules(static, counted, {"bfloat16": 200}, {}).rules
    assert rule.exact_bytes == 800


@given(SIZES, SIZES, st.sampled_from([2, 4]), st.sampled_from([2, 4]), SIZES)
def test_the_differences_always_add_up_to_exact_minus_rule(
    base: int, adapter: int, base_size: int, adapter_size: int, buffer_bytes: int
) -> None:
    counted = census(base, adapter, base_size=base_size, adapter_size=adapter_size, buffer_bytes=buffer_bytes)
    base_dtypes = {{2: "bfloat16", 4: "float32"}[base_size]: base * base_size}
    static = count(base_dtypes, counted, base_buffer_bytes=buffer_bytes, has_adapter=True)
    for rule in list_textbook_rules(static, counted, base_dtypes, {}).rules:
        assert sum(difference.bytes for difference in rule.differences) == rule.exact_bytes - rule.bytes


def test_what_the_class_freezes_has_no_gradient_and_no_moments() -> None:
    counted = census(100, 0, base_size=2, adapter_size=2)
    static = count({"bfloat16": 200}, counted, base_buffer_bytes=0, has_adapter=False, base_frozen_bytes=20)
    assert (static.full.frozen_bytes, static.full.trained_bytes) == (20, 180)
    assert static.full.total_bytes == 200 + 180 + 2 * 180
    (rule,) = list_textbook_rules(static, counted, {"bfloat16": 200}, {"bfloat16": 20}).rules
    assert sum(difference.bytes for difference in rule.differences) == rule.exact_bytes - rule.bytes
