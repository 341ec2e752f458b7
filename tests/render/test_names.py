"""Names folded over layers, and typos."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.names import fold_indices, fold_names, group_names, near_names


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ([0], "0"),
        ([0, 1], "0-1"),
        (list(range(64)), "0-63"),
        ([0, 2], "0,2"),
        ([3, 7, 11, 15], "3-15:4"),
        ([0, 1, 2, 4, 5, 6], "0-2,4-6"),
        ([0, 1, 3, 4, 6, 7, 9, 10, 12, 13], "0-1,3-4,6-7,…,12-13"),
    ],
)
def test_indices_are_written_as_ranges(indices: list[int], text: str) -> None:
    assert fold_indices(indices) == text


@given(st.sets(st.integers(0, 300), min_size=1))
def test_a_range_starts_and_ends_at_the_outermost_indices(indices: set[int]) -> None:
    text = fold_indices(sorted(indices))
    assert text.startswith(str(min(indices)))
    assert text.partition(":")[0].endswith(str(max(indices)))


def test_names_that_differ_in_numbers_only_fold_in_order_of_appearance() -> None:
    names = [f"layers.{layer}.{leaf}" for layer in range(3) for leaf in ("b", "a")]
    assert fold_names([*names, "head"]) == ["layers.0-2.b", "layers.0-2.a", "head"]


def test_names_with_two_numbers_fold_each_of_them() -> None:
    assert fold_names([f"l.{i}.e.{j}.w" for i in range(2) for j in range(4)]) == ["l.0-1.e.0-3.w"]


def test_a_typo_in_a_name_finds_the_name_that_was_meant() -> None:
    assert near_names("embed_token", ["embed_tokens", "lm_head", "norm"]) == ["embed_tokens"]


def test_a_folded_name_stands_for_each_of_its_numbers_and_no_name_is_lost_to_one_that_looks_folded() -> None:
    names = [
        "a.0.x",
        "a.1.x",
        "b.0.x",
        "b.2.x",
        "a.0-1.x",
        "c.7",
        "d.#",
        "d.3",
        "",
        "e.2.0",
        "e.2.1",
        "f.\u00b2",
        "f.2",
    ]
    groups = group_names(names)
    folded = ["a.0-1.x", "b.0,2.x", "a.0-1.x", "c.7", "d.#", "d.3", "", "e.2.0-1", "f.\u00b2", "f.2"]
    assert [name for name, _ in groups] == folded
    assert [member for _, members in groups for member in members] == names
