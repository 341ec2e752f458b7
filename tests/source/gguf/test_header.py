"""Headers of GGUF files: what is read, and that what breaks the format is one line within bounds."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from inspector.errors import InspectorError, ModelUnavailableError
from inspector.records.engines.gguf import GgufModel
from inspector.source.gguf.header import MOST_HEADER_BYTES, parse_header
from inspector.source.gguf.read import read_gguf
from inspector.source.gguf.types import GGML_TYPES
from inspector.source.safetensors_header import MalformedError

from .gguf_files import QWEN3_8B, make_header, make_tensors, write_model

ONE = [("a.weight", "f16", (64, 3))]


def _parse(content: bytes, file_bytes: int | None = None) -> object:
    return parse_header(lambda start, length: content[start : start + length], file_bytes, "'model.gguf'")


def _read(path: Path | str) -> GgufModel:
    model = read_gguf(str(path), revision=None, offline=True, progress=lambda _stage: None).gguf
    assert model is not None
    return model


def test_a_header_says_types_shapes_bytes_and_metadata(tmp_path: Path) -> None:
    """Texts of the vocabulary are counted, values kept, and data is never read: the file is a hole."""
    path = write_model(tmp_path / "model.gguf")
    model = _read(path)
    table = {tensor.name: tensor for tensor in model.tensors}
    assert table["blk.35.ffn_down.weight"].type == "Q6_K"
    assert table["blk.35.ffn_down.weight"].bytes == 12288 * 4096 // 256 * 210
    assert len(table) == 3 + 36 * 9
    assert model.file_bytes == path.stat().st_size
    assert model.metadata["tokenizer.ggml.tokens"] == 3
    assert model.metadata["tokenizer.ggml.scores"] == [0.5, 1.5, 2.5]
    assert model.metadata["qwen3.block_count"] == 36


def test_the_types_are_those_of_ggufs_own_package() -> None:
    """gguf-py has the same table, where it is installed."""
    constants = pytest.importorskip("gguf.constants")
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in constants.GGML_QUANT_SIZES.items()}
    ours = {number: (kind.name, kind.block_elements, kind.block_bytes) for number, kind in GGML_TYPES.items()}
    assert theirs == {number: ours[number] for number in theirs}


def _announce(tensors: int, values: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, values)


def _announce_array(kind: int, length: int) -> bytes:
    return _announce(0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, kind, length)


def _replace(before: bytes, after: bytes) -> bytes:
    header, _ = make_header({}, ONE)
    assert before in header
    return header.replace(before, after)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param(b"", "ends after 0 bytes", id="empty"),
        pytest.param(b"\x7fELF" + bytes(100), "starts with b'.*ELF'", id="no-gguf"),
        pytest.param(make_header({}, ONE, version=1)[0], "has the version 1", id="version-1"),
        pytest.param(make_header({}, ONE, version=3 << 24)[0], "of the other byte order", id="big-endian"),
        pytest.param(_announce(2**63), "announces 9,223,372,036,854,775,808 tensors", id="2^63-tensors"),
        pytest.param(_announce(1, 2**63), "metadata values, more than", id="2^63-values"),
        pytest.param(make_header(QWEN3_8B, make_tensors())[0][:400], "ends after 400 bytes", id="truncated"),
        pytest.param(make_header({}, [("a\nb", "f16", (4,))])[0], "which no name is", id="line-break-in-a-name"),
        pytest.param(make_header({}, [("\x1b[31m", "f16", (4,))])[0], "which no name is", id="escape-in-a-name"),
        pytest.param(make_header({"a\x00b": 1}, [])[0], "which no text is", id="nul-in-a-key"),
        pytest.param(make_header({}, [("a" * 64, "f16", (4,))])[0], "name of 64 bytes", id="long-name"),
        pytest.param(make_header({}, [("a", "f16", (4,)), ("a", "f16", (4,))])[0], "'a' twice", id="name-twice"),
        pytest.param(make_header({}, [("a", "q4_k", (100,))])[0], "no whole blocks of Q4_K", id="part-of-a-block"),
        pytest.param(make_header({}, [("a", "f16", (2**62, 4))])[0], "more elements than 2", id="2^64-elements"),
        pytest.param(make_header({}, [("a", "f16", (2,) * 5)])[0], "5 dimensions", id="dimensions"),
        pytest.param(
            _replace(struct.pack("<QIQ", 3, 1, 0), struct.pack("<QIQ", 3, 99, 0)), "the type 99, which", id="type"
        ),
        pytest.param(
            _replace(struct.pack("<QIQ", 3, 1, 0), struct.pack("<QIQ", 3, 1, 64)), "puts 'a.weight' at 64", id="gap"
        ),
        pytest.param(make_header({"general.alignment": 3}, ONE)[0], "no power of two", id="alignment"),
        pytest.param(_announce_array(8, 2**62), "texts", id="2^62-texts"),
        pytest.param(_announce_array(4, 2**62), "values", id="2^62-numbers"),
        pytest.param(_announce_array(9, 1), "an array of the type 9", id="nested"),
        pytest.param(_announce(0, 1) + struct.pack("<Q", 2**40), "a key of 1,099,511,627,776 bytes", id="long-key"),
    ],
)  # fmt: skip
def test_what_breaks_the_format_is_one_line(content: bytes, match: str) -> None:
    """Nothing that a file announces is believed before its bytes are there."""
    with pytest.raises(MalformedError, match=match) as error:
        _parse(content)
    assert str(error.value).isprintable()


def test_a_file_that_is_cut_off_inside_its_data_is_refused(tmp_path: Path) -> None:
    """An interrupted download has its header whole."""
    path = write_model(tmp_path / "model.gguf")
    os.truncate(path, path.stat().st_size - 1000)
    with pytest.raises(MalformedError, match="it is cut off"):
        _read(path)


def test_a_header_is_read_up_to_its_bound_and_no_further() -> None:
    """A text of 60 MB is in the bound, two of them are not; neither is kept."""
    asked = 0

    def read(start: int, length: int) -> bytes:
        nonlocal asked
        asked = max(asked, start + length)
        text = struct.pack("<Q", 60 * 2**20)
        head = _announce(0, 2) + struct.pack("<Q", 1) + b"a" + struct.pack("<I", 8) + text
        return (head[start:] + bytes(length))[:length] if start < len(head) else b"a" * length

    with pytest.raises(MalformedError):
        parse_header(read, None, "'model.gguf'")
    assert asked <= MOST_HEADER_BYTES


def test_parts_of_a_model_are_read_together(tmp_path: Path) -> None:
    """The first part has the metadata; tensors of one name in two of them are refused."""
    tensors = make_tensors(layers=2)
    write_model(tmp_path / "m-00001-of-00002.gguf", QWEN3_8B, tensors[:5])
    write_model(tmp_path / "m-00002-of-00002.gguf", {"split.no": 1}, tensors[5:])
    model = _read(tmp_path)
    assert len(model.files) == 2
    assert len(model.tensors) == len(tensors)
    write_model(tmp_path / "m-00002-of-00002.gguf", {"split.no": 1}, tensors[4:])
    with pytest.raises(InspectorError, match="tensors of one name"):
        _read(tmp_path / "m-00001-of-00002.gguf")
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(ModelUnavailableError, match=r"m-00002-of-00002\.gguf"):
        _read(tmp_path)


@pytest.mark.parametrize(
    ("tag", "name"), [("", "m-Q4_K_M.gguf"), (":Q8_0", "m-Q8_0.gguf"), (":q2_k", "m-Q2_K.gguf"), (":bf16", None)]
)
def test_a_tag_chooses_as_llama_cpp_does(tmp_path: Path, tag: str, name: str | None) -> None:
    """Q4_K_M without one; projectors are no models; a tag that no file has names those that are there."""
    for each in ("m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-bf16.gguf"):
        write_model(tmp_path / each, QWEN3_8B, ONE)
    if name is None:
        with pytest.raises(ModelUnavailableError, match=r"no GGUF file with 'bf16' in its name; it has 'm-Q2_K\.gguf'"):
            _read(f"{tmp_path}{tag}")
        return
    assert _read(f"{tmp_path}{tag}").files == (name,)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["pipe", "empty-folder"])
def test_what_holds_no_model_is_unavailable(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe is not waited for."""
    path = tmp_path / "model.gguf"
    make(path)
    with pytest.raises(ModelUnavailableError):
        _read(path)
