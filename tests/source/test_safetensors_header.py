"""Headers and indexes: what is sound is read exactly, everything else is one line, and nothing is unbounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.records.checkpoint import StoredTensor
from inspector.source.safetensors_header import (
    MOST_HEADER_BYTES,
    MalformedError,
    is_plain_name,
    parse_header,
    parse_index,
    read_header_length,
)

from .weight_files import framed, weight_file


def parse(file: bytes) -> dict[str, StoredTensor]:
    """Return the tensors of a whole file."""
    length = read_header_length(file[:8], len(file), "'x'")
    return parse_header(file[8 : 8 + length], len(file), "'x'")


def entry(**fields: Any) -> dict[str, Any]:
    """Return the description of a tensor of 4 float32 elements with some fields replaced."""
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **fields}


def refusal(header: object, data: bytes = bytes(16)) -> str:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    with pytest.raises(MalformedError) as caught:
        parse(framed(content, data))
    assert str(caught.value).isprintable()
    return str(caught.value)


TENSORS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(
        st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
        st.lists(st.integers(0, 4), max_size=4),
    ),
    max_size=6,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(TENSORS)
def test_what_the_library_writes_is_read_back(tensors: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    """Names, shapes, dtypes and bytes of files that safetensors itself saved."""
    made = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in tensors.items()}
    found = parse(safetensors.torch.save(made))
    assert {name: (tensor.shape, tensor.bytes) for name, tensor in found.items()} == {
        name: (tuple(tensor.shape), tensor.numel() * tensor.element_size()) for name, tensor in made.items()
    }


MUTATIONS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(MUTATIONS, st.integers(-3, 3))
def test_what_is_accepted_is_accepted_by_the_library_too(mutations: list[tuple[int, int]], longer: int) -> None:
    """A file that this reader takes for sound, safetensors takes for sound, with the same names."""
    file = bytearray(weight_file({"a": ("F32", (2, 2)), "b": ("BF16", (3,)), "c": ("I64", ())}))
    for position, value in mutations:
        file[position % len(file)] = value
    content = bytes(file) + bytes(longer) if longer >= 0 else bytes(file[:longer])
    try:
        found = parse(content)
    except MalformedError:
        return
    assert safetensors.torch.load(content).keys() == found.keys()


def test_a_sub_byte_dtype_counts_elements() -> None:
    """Sixteen elements of four bits are eight bytes."""
    header = json.dumps({"a": {"dtype": "F4", "shape": [4, 4], "data_offsets": [0, 8]}}).encode()
    assert parse(framed(header, bytes(8))) == {"a": StoredTensor(dtype="F4", shape=(4, 4), bytes=8)}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"a": entry(dtype="F31")}, "dtype 'F31'"),
        ({"a": entry(dtype=None)}, "dtype 'None'"),
        ({"a": entry(shape=[2, -2])}, "a shape that is not a list of sizes"),
        ({"a": entry(shape=[2, 2.0])}, "a shape that is not a list of sizes"),
        ({"a": entry(shape=[True, 4])}, "a shape that is not a list of sizes"),
        ({"a": entry(shape=[1] * 33)}, "a shape that is not a list of sizes"),
        ({"a": entry(shape=[2**62, 2**62])}, "do not take"),
        ({"a": entry(shape=[2, 3])}, "16 bytes, which its dtype and shape do not take"),
        ({"a": entry(data_offsets=[16, 0])}, "do not take"),
        ({"a": entry(data_offsets=[0])}, "offsets that are not two counts"),
        ({"a": entry(data_offsets=[0, 2**63])}, "offsets that are not two counts"),
        ({"a": entry(), "b": entry()}, "overlaps the data before it"),
        ({"a": entry(), "b": entry(data_offsets=[8, 24])}, "overlaps the data before it"),
        ({"a": entry(data_offsets=[4, 20])}, "leaves a gap before it"),
        ({"a": []}, "describes 'a' by something other than an object"),
        ({"n" * 1001: entry()}, "a name of 1,001 characters"),
        ([], "holds a list"),
        (b'{"a": {"shape": [NaN]}}', "holds NaN"),
        (b'{"a": {"shape": [' + b"9" * 5000 + b"]}}", "beyond 64 bit"),
        (b'{"a":' * 200 + b"0" + b"}" * 200, "nests deeper"),
        (b"\xff\xfe{}", "is not UTF-8"),
        (b"{ ", "is not valid JSON"),
        ({}, "describes a file of 10 bytes, and it has 26"),
    ],
)
def test_a_header_that_is_not_sound_is_refused(header: object, says: str) -> None:
    """Each fault has its own words."""
    assert says in refusal(header)


@pytest.mark.parametrize("length", [0, 1, 27, 2**31, MOST_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_a_length_that_does_not_fit_is_refused_before_anything_is_read(length: int) -> None:
    """Neither beyond the file nor beyond the bound."""
    with pytest.raises(MalformedError):
        read_header_length(length.to_bytes(8, "little"), 34, "'x'")


def test_a_file_that_ends_early_is_refused() -> None:
    """Eight bytes are needed to know more."""
    with pytest.raises(MalformedError, match="has 3 bytes"):
        read_header_length(b"abc", 3, "'x'")


def test_a_safetensors_header_of_too_many_entries_is_refused() -> None:
    """Before their fields are looked at."""
    entries = b",".join(b'"%x":0' % number for number in range(500_000))
    assert "more than the 200,000 that are read" in refusal(b"{" + entries + b"}")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../b",
        "/etc/passwd",
        "a//b",
        "",
        ".",
        "..",
        "a/..",
        "C:x",
        "C:\\x",
        "a\\b",
        "a\nb",
        "a\0b",
        "x" * 1001,
    ],
)
def test_a_name_that_leads_elsewhere_is_none(name: str) -> None:
    """Names go into addresses and paths."""
    assert not is_plain_name(name)
    with pytest.raises(MalformedError, match="not a path inside the repository"):
        parse_index(json.dumps({"weight_map": {"a": name}}).encode(), "'index'")


@pytest.mark.parametrize("name", ["model.safetensors", "a/b.bin", "a..b", "modèle", "C", "a b"])
def test_names_of_files_with_spaces_dots_and_any_script_are_accepted(name: str) -> None:
    """Spaces, dots and letters of any script are in names of files."""
    assert is_plain_name(name)


@pytest.mark.parametrize(
    "content",
    [b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b'{"weight_map": {"a": 7}}', b'{"weight_map": {"a": null}}'],
)
def test_an_index_that_is_none_is_refused(content: bytes) -> None:
    """An index without a map of names to names says nothing."""
    with pytest.raises(MalformedError):
        parse_index(content, "'index'")


def test_an_index_of_endless_files_is_refused() -> None:
    """2,001 files are none of any model."""
    weight_map = {str(number): f"{number}.safetensors" for number in range(2001)}
    with pytest.raises(MalformedError, match="names 2,001 files"):
        parse_index(json.dumps({"weight_map": weight_map}).encode(), "'index'")
