"""GGUF files of the Hub: the header is read by range requests, and no file is downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from inspector.errors import ModelUnavailableError
from inspector.records.source import ServedFrom, SourceFiles
from inspector.source.gguf.read import read_gguf
from tests.source.conftest import hub  # noqa: F401  # the fixture
from tests.source.loopback_hub import LoopbackHub

from .gguf_files import make_header

TENSORS = [("token_embd.weight", "f16", (64, 3)), ("blk.0.attn_q.weight", "q8_0", (64, 2))]


def _make_file(name: str) -> bytes:
    header, size = make_header({"general.architecture": "llama", "general.name": name}, TENSORS)
    return header + bytes(size)


def _read(name: str) -> SourceFiles:
    return read_gguf(name, revision=None, offline=False, progress=lambda _stage: None)


@pytest.fixture
def repository(hub: LoopbackHub) -> LoopbackHub:  # noqa: F811
    """Return a Hub with a repository of two files and no config.json."""
    hub.host("org/tiny-GGUF", {f"tiny-{tag}.gguf": _make_file(tag) for tag in ("Q4_K_M", "Q8_0")})
    return hub


@pytest.mark.parametrize(
    ("name", "tag"),
    [("org/tiny-GGUF", "Q4_K_M"), ("org/tiny-GGUF:Q8_0", "Q8_0"), ("org/tiny-GGUF/tiny-Q8_0.gguf", "Q8_0")],
)
def test_a_repository_is_read_as_llama_cpp_would_choose_of_it(repository: LoopbackHub, name: str, tag: str) -> None:
    """By default Q4_K_M, by the tag behind the id, or by the file."""
    files = _read(name)
    assert files.gguf is not None
    assert files.gguf.metadata["general.name"] == tag
    assert files.gguf.file_bytes == len(_make_file(tag))
    assert files.served_from is ServedFrom.HUB
    assert files.id == f"org/tiny-GGUF/tiny-{tag}.gguf"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (
            "org/tiny-GGUF:IQ2_M",
            "has no GGUF file with 'IQ2_M' in its name; it has 'tiny-Q4_K_M.gguf', 'tiny-Q8_0.gguf'",
        ),
        ("org/tiny-GGUF/other.gguf", "has no file 'other.gguf'"),
        ("org/none", "has no public model 'org/none'"),
        ("a/b/c/d", "neither a path on this machine nor a Hub id"),
    ],
)
def test_what_is_not_there_is_one_line(repository: LoopbackHub, name: str, match: str) -> None:
    """Exit code 3, with what is there."""
    with pytest.raises(ModelUnavailableError, match=match):
        _read(name)


def test_offline_a_file_of_the_cache_is_read(repository: LoopbackHub, tmp_path: Path) -> None:
    """What llama.cpp or the client downloaded earlier; without it, the way back to the Hub is named."""
    folder = tmp_path / "cache" / "models--org--tiny-GGUF"
    snapshot = folder / "snapshots" / "0123456789012345678901234567890123456789"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(snapshot.name)
    (snapshot / "tiny-Q8_0.gguf").write_bytes(_make_file("kept"))
    files = read_gguf("org/tiny-GGUF", revision=None, offline=True, progress=lambda _stage: None)
    assert files.gguf is not None
    assert files.gguf.metadata["general.name"] == "kept"
    assert files.served_from is ServedFrom.CACHE
    assert files.revision == snapshot.name
    with pytest.raises(ModelUnavailableError, match="'org/other' is not in the Hugging Face cache"):
        read_gguf("org/other", revision=None, offline=True, progress=lambda _stage: None)


@pytest.mark.parametrize(
    "name", ["org/big-GGUF", "org/big-GGUF:Q4_K_M", "org/big-GGUF/Q4_K_M/big-Q4_K_M-00001-of-00003.gguf"]
)
def test_a_model_in_parts_in_a_folder_of_a_repository_is_read_together(hub: LoopbackHub, name: str) -> None:  # noqa: F811
    """As repositories of large models have them: a folder for each form of the weights."""
    files = {}
    for form in ("BF16", "Q4_K_M"):
        for part in range(3):
            metadata = {"general.architecture": "llama", "general.name": form} if part == 0 else {"split.no": part}
            header, size = make_header(metadata, [(f"blk.{part}.attn_q.weight", "q8_0", (64, 2))])
            files[f"{form}/big-{form}-0000{part + 1}-of-00003.gguf"] = header + bytes(size)
    hub.host("org/big-GGUF", files)
    found = _read(name)
    assert found.gguf is not None
    assert found.gguf.metadata["general.name"] == "Q4_K_M"
    assert len(found.gguf.files) == 3
    assert [tensor.name for tensor in found.gguf.tensors] == [f"blk.{part}.attn_q.weight" for part in range(3)]
    assert found.gguf.file_bytes == sum(len(content) for path, content in files.items() if "Q4" in path)


def test_a_part_that_a_repository_lacks_is_named(hub: LoopbackHub) -> None:  # noqa: F811
    header, size = make_header({"general.architecture": "llama"}, TENSORS)
    hub.host("org/half-GGUF", {"half-Q8_0-00001-of-00002.gguf": header + bytes(size)})
    with pytest.raises(ModelUnavailableError, match=r"half-Q8_0-00002-of-00002\.gguf") as error:
        _read("org/half-GGUF")
    assert "\n" not in str(error.value)
