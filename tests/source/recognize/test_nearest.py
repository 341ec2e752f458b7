"""What is suggested for a name is of its family and size."""

from __future__ import annotations

import pytest

from inspector.source.catalogue import list_ids
from inspector.source.recognize.nearest import list_near_ids


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B"),
        ("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B"),
        ("google/gemma-3-4b-pt", "google/gemma-3-4b-it"),
        ("llama-3-8b", "meta-llama/Meta-Llama-3-8B"),
        ("Qwen/QwQ-32", "Qwen/QwQ-32B"),
        ("qwen/qwq32b", "Qwen/QwQ-32B"),
    ],
)
def test_the_nearest_is_of_the_same_family_and_size(name: str, meant: str) -> None:
    assert list_near_ids(name, list_ids())[0] == meant


@pytest.mark.parametrize("name", ["google/gemma-3-12b-it", "mistralai/Mixtral-8x22B-v0.1", "zzzz/0000-1111"])
def test_another_size_is_not_suggested(name: str) -> None:
    """gemma-3-1b-it is spelt like gemma-3-12b-it, and is another model."""
    assert list_near_ids(name, list_ids()) == []
    near = list_near_ids("meta-llama/Llama-3.1-8B-Instruct", list_ids())
    assert not any("70B" in entry for entry in near)
