"""What is fuzzed: each target takes bytes and holds what comes out against the contract.

A target raises nothing but AssertionError: an input is read, or refused in one printable line. It runs under atheris
(`python -m tests.fuzz.coverage_guided`) and, a bounded share, in tests/fuzz/test_fuzz.py. No target needs torch.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from inspector.engines.gguf_census import count_gguf, describe_gguf
from inspector.engines.llama_cpp import serve as serve_gguf
from inspector.errors import InspectorError, UsageError
from inspector.hardware.catalogue import find_gpu
from inspector.planning.compare import compare_reports
from inspector.records.checkpoint import StoredCheckpoint, StoredFile
from inspector.records.gguf import GgufModel
from inspector.records.report import SCHEMA
from inspector.records.serving import ServingOptions
from inspector.records.source import ServedFrom, SourceFiles
from inspector.render.comparison import render_comparison_csv, render_comparison_json
from inspector.source import header_cache, listing
from inspector.source.bounded_json import parse_object
from inspector.source.checkpoint import UnreadError, read_checkpoint
from inspector.source.gguf.header import parse_header as read_gguf_header
from inspector.source.hub_client import HubError, translate_errors
from inspector.source.safetensors_header import MalformedError, parse_header, parse_index, read_header_length
from inspector.source.transport import Answer

__all__ = ["SEEDS", "TARGETS", "seeds"]

SEEDS = Path(__file__).parent / "seeds"


def config(data: bytes) -> None:
    """Read a configuration."""
    with _refused(InspectorError):
        fields = parse_object(data, "config.json of 'x'")
        json.dumps(fields)


def header(data: bytes) -> None:
    """Read the header of a file."""
    with _refused(MalformedError):
        length = read_header_length(data[:8], len(data), "'x'")
        tensors = parse_header(data[8 : 8 + length], len(data), "'x'")
        assert 8 + length + sum(tensor.bytes for tensor in tensors.values()) == len(data)
        assert all(tensor.elements >= 0 for tensor in tensors.values())


def index(data: bytes) -> None:
    """Read the index of a sharded checkpoint: no name in it leads elsewhere."""
    with _refused(MalformedError):
        for name in set(parse_index(data, "'x'").values()):
            path = Path("/model") / name
            assert path.resolve().is_relative_to("/model")
            assert "\0" not in name


def checkpoint(data: bytes) -> None:
    """Read a repository whose index, shards and config hold parts of the input; whatever they hold is a notice."""
    first, _, rest = data.partition(b"\xff\xfe")
    files = {
        "model.safetensors.index.json": first,
        "a.safetensors": rest,
        "b.safetensors": rest[::-1],
        "model.fp16.safetensors": rest,
    }
    listed = [StoredFile(name=name, bytes=len(content)) for name, content in files.items()]
    stored, notices = read_checkpoint(listed, {}, _Memory(files), lambda _stage: None)
    assert all(notice.message.isprintable() for notice in notices)
    assert isinstance(stored, StoredCheckpoint)
    taken = sum(file.bytes or 0 for file in (*stored.weights, *stored.companions))
    assert taken + sum(item.bytes for item in stored.left_out) == sum(map(len, files.values()))


def hub_listing(data: bytes) -> None:
    """Read what the Hub says of a repository."""
    with mock.patch.object(listing, "fetch", return_value=Answer(content=data, file_bytes=len(data))):
        with _refused(HubError), translate_errors():
            repository = listing.describe_repository("org/model", "main")
            assert all(".." not in file.name.split("/") for file in repository.files)
        assert len(listing.list_near_revisions("org/model", "main")) <= 3
        assert listing.find_other_kind("org/model") in (None, "dataset", "Space")


def note(data: bytes) -> None:
    """Read what an earlier run kept; a damaged note is none, and a sound one is written as it was."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "note.json"
        path.write_bytes(data)
        with mock.patch.object(header_cache, "_build_path", return_value=path):
            found = header_cache.load_checkpoint("org/model", "0" * 40)
            if found is not None:
                header_cache.save_checkpoint("org/model", "0" * 40, found)
                assert header_cache.load_checkpoint("org/model", "0" * 40) == found


def report(data: bytes) -> None:
    """Read a report that somebody hands over, set it beside itself and beside an empty one, and print that."""
    with _refused(InspectorError):
        fields = parse_object(data, "'report.json'", error=UsageError)
        assert compare_reports([("a", fields), ("b", fields)], {}).figures == []
        comparison = compare_reports([("a", fields), ("b", {"schema": SCHEMA})], {"inspector": "0.1.0"})
        for write in (render_comparison_csv, render_comparison_json):
            stream = io.StringIO()
            write(comparison, stream)
            assert all(character == "\n" or character.isprintable() for character in stream.getvalue())


def gguf(data: bytes) -> None:
    """Read a GGUF file and say what llama.cpp makes of it; what is printed of it has no control character."""
    with _refused(InspectorError):
        found = read_gguf_header(lambda start, length: data[start : start + length], None, "'x'")
        model = GgufModel(files=("x",), file_bytes=0, metadata=found.metadata, tensors=found.tensors)
        serving = serve_gguf(model, ServingOptions(engine="llama.cpp"), [(find_gpu("4090").gpu, 1)])
        assert serving.request_bytes >= 0
        assert serving.bytes_per_token >= 0
        files = SourceFiles(id="x", served_from=ServedFrom.LOCAL, config={}, gguf=model)
        facts, census = describe_gguf(files), count_gguf(model)
        assert census.base == sum(census.groups.values())
        assert facts.model_type.isprintable()
        assert all(note.isprintable() for note in serving.notes)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (config, header, index, checkpoint, hub_listing, note, report, gguf)
}


def seeds(target: str) -> list[bytes]:
    """Return the inputs to start from, in the order of their names."""
    return [path.read_bytes() for path in sorted((SEEDS / target).iterdir())]


class _refused:  # noqa: N801  # reads as a statement
    """Let an error of this kind end the block, when it is one printable line."""

    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        if error is None or not isinstance(error, self._kind):
            return False
        assert str(error).isprintable(), repr(error)
        assert len(str(error)) < 2_000
        return True


class _Memory:
    """Files in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def read_part(self, name: str, start: int, length: int) -> tuple[bytes, int | None]:
        """Return a part of a file."""
        content = self._files[name]
        return content[start : start + length], len(content)

    def read_whole(self, name: str, most_bytes: int) -> bytes:
        """Return a file of up to `most_bytes`."""
        content = self._files[name]
        if len(content) > most_bytes:
            raise UnreadError(name)
        return content
