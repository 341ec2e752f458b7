"""--gpu-memory: a size with a unit becomes bytes, anything else one line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.errors import UsageError
from inspector.hardware.memory_size import build_stated_gpu, parse_memory


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * 2**30),
        ("24 gib", 24 * 2**30),
        (" 23.5GiB ", 47 * 2**29),
        ("24GB", 24 * 10**9),
        ("24576MiB", 24 * 2**30),
        ("24000 MB", 24 * 10**9),
        ("0.5TiB", 2**39),
        ("0.000000001GB", 1),
    ],
)
def test_a_size_is_read_exactly(text: str, size: int) -> None:
    """Binary and decimal units are told apart, in any case."""
    assert parse_memory(text) == size
    assert build_stated_gpu(text).memory_bytes == size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("24", "has no unit; write 24GiB"),
        ("0", "has no unit"),
        ("0GiB", "more than 0"),
        ("0.0 MiB", "more than 0"),
        ("-24GiB", "is not a size"),
        ("24G", "G is not a unit"),
        ("24 giga", "giga is not a unit"),
        ("24Gib/s", "is not a size"),
        ("GiB", "is not a size"),
        ("", "is not a size"),
        ("1e3GiB", "is not a size"),
        ("nanGiB", "is not a size"),
        ("999999999TiB", "at most 1024TiB"),
        ("٢٤GiB", "is not a size"),
    ],
)
def test_what_is_no_size_is_refused(text: str, says: str) -> None:
    """Each mistake is named, with how to write it."""
    with pytest.raises(UsageError) as caught:
        parse_memory(text)
    assert says in str(caught.value)


def test_a_size_is_named_as_it_was_given() -> None:
    """The name of the GPU in the report has the unit's own spelling."""
    assert build_stated_gpu("24gib").name == "24 GiB"


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    """Nothing ends in another error."""
    with contextlib.suppress(UsageError):
        assert parse_memory(text) > 0
