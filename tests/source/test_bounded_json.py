from __future__ import annotations

import os
from pathlib import Path

import pytest

from inspector.errors import ModelUnavailableError, UnsupportedModelError, UsageError
from inspector.source.bounded_json import MOST_BYTES, parse_object, read_object


def test_a_bounded_object_is_returned_as_json_reads_it() -> None:
    """Text and bytes give the same object; nulls are kept, since a dropped null changes a model."""
    text = '{"a": 1, "b": null, "c": [1.5, "é"], "d": {}}'
    expected: dict[str, object] = {"a": 1, "b": None, "c": [1.5, "é"], "d": {}}
    assert parse_object(text, "it") == expected
    assert parse_object(text.encode(), "it") == expected


def test_infinity_is_read_as_a_value_of_json() -> None:
    """Mamba-2 configurations hold `"time_step_limit": [0.0, Infinity]`, and transformers reads that."""
    assert parse_object('{"a": [0.0, Infinity, -Infinity]}', "it") == {"a": [0.0, float("inf"), float("-inf")]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty; write a JSON object."),
        (b" \n", "it is empty; write a JSON object."),
        (b"<html>", "it is not valid JSON: Expecting value at line 1 column 1; correct it."),
        (b'{"a": 1,\n "b": [1, 2', "it is not valid JSON: Expecting ',' delimiter at line 2 column 12; correct it."),
        (b"[1]", "it holds a list; write a JSON object."),
        (b'"a"', "it holds a string; write a JSON object."),
        (b"1", "it holds a number; write a JSON object."),
        (b"null", "it holds null; write a JSON object."),
        (b"true", "it holds true or false; write a JSON object."),
        (
            b'{"NaN": "NaN",\n "b": NaN}',
            "it holds NaN, which a configuration cannot have, at line 2 column 7; correct it.",
        ),
        (
            b'{"a": "\\"NaN", "b": NaN}',
            "it holds NaN, which a configuration cannot have, at line 1 column 21; correct it.",
        ),
        (
            b'{"a": -9223372036854775809}',
            "it holds the integer -9223372036854775809, which is beyond 64 bit, at line 1",
        ),
        (
            b'{"a": 18446744073709551616}',
            "it holds the integer 18446744073709551616, which is beyond 64 bit, at line 1",
        ),
        (b"\xef\xbb\xbf{}", "it starts with a byte-order mark; save it as UTF-8 without one."),
        ('{"a": 1}'.encode("utf-16"), "it is not UTF-8 text: byte 0 does not fit; save it as UTF-8."),
        (b'{"a": "\xff"}', "it is not UTF-8 text: byte 7 does not fit; save it as UTF-8."),
    ],
)
def test_anything_else_is_one_line_with_the_position(content: bytes, message: str) -> None:
    """What is not a bounded JSON object is refused, saying what is wrong and where."""
    with pytest.raises(UnsupportedModelError) as caught:
        parse_object(content, "it")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ['{"a":' * 101 + "1" + "}" * 101, "[" * 100_000], ids=["just too deep", "absurdly deep"]
)
def test_deeply_nested_json_is_refused(text: str) -> None:
    """More than 100 levels are refused, whether Python's parser would still manage or not."""
    with pytest.raises(UnsupportedModelError, match="nests deeper than 100 levels"):
        parse_object(text, "it")


def test_endless_integers_are_refused_unconverted() -> None:
    """Python refuses to convert 10,000 digits with an error of its own; it is not asked to."""
    with pytest.raises(
        UnsupportedModelError, match=r"holds the integer 9{29}…, which is beyond 64 bit, at line 1 column 7"
    ):
        parse_object('{"a": ' + "9" * 10_000 + "}", "it")


def test_long_content_is_refused_unparsed() -> None:
    """Content beyond 16 MiB is refused for its length alone."""
    with pytest.raises(UnsupportedModelError, match=r"more than the 16\.00 MiB"):
        parse_object(b" " * (MOST_BYTES + 1), "it")


def test_the_bounds_themselves_are_inside() -> None:
    """100 levels and the smallest and largest integers of 64 bit pass."""
    assert parse_object('{"a":' * 100 + "1" + "}" * 100, "it")
    assert parse_object('{"a": [-9223372036854775808, 18446744073709551615]}', "it")


def test_the_caller_chooses_the_error() -> None:
    """A malformed `--peft FILE` is wrong usage, not a model that cannot be inspected."""
    with pytest.raises(UsageError, match="it is empty"):
        parse_object("", "it", error=UsageError)


def test_what_is_named_reaches_the_message_clean() -> None:
    """A file name with control characters cannot write to the terminal."""
    with pytest.raises(UnsupportedModelError) as caught:
        parse_object("", "a\x1b[31m\nb")
    assert str(caught.value) == "a\N{REPLACEMENT CHARACTER}[31m b is empty; write a JSON object."


def test_a_file_is_named_in_its_error(tmp_path: Path) -> None:
    """Without another name, a message quotes the path."""
    path = tmp_path / "config.json"
    path.write_bytes(b"{")
    with pytest.raises(UnsupportedModelError) as caught:
        read_object(path)
    assert str(caught.value).startswith(f"'{path}' is not valid JSON: ")


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    """The size decides before anything is read: a file of 1 TiB, all of it a hole, is refused at once."""
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UnsupportedModelError, match=r"has 1\.00 TiB, more than the 16\.00 MiB"):
        read_object(path)


def test_what_is_no_file_is_unavailable(tmp_path: Path) -> None:
    """A directory, a pipe, a missing file, a loop of links and an impossible name cannot be read, and say so."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    reasons: dict[str | Path, str] = {
        tmp_path: "it is a directory; name a JSON file.",
        tmp_path / "pipe": "it is not a regular file; name a JSON file.",
        tmp_path / "missing": "it cannot be read (No such file or directory)",
        tmp_path / "loop": "it cannot be read (Too many levels of symbolic links)",
        "a\0b": "it cannot be read (embedded null byte)",
    }
    for path, reason in reasons.items():
        with pytest.raises(ModelUnavailableError) as caught:
            read_object(path, "it")
        assert str(caught.value).startswith(reason)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_unavailable(tmp_path: Path) -> None:
    """A file that this user may not read says so."""
    path = tmp_path / "config.json"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(ModelUnavailableError, match="Permission denied"):
        read_object(path)
