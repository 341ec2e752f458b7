"""What was read of a repository at one commit, kept so that a second run asks nothing.

A commit never changes its meaning, so what was read of its headers stays true. The place is the client's assets cache
(HF_ASSETS_CACHE, by default assets/ in HF_HOME), where libraries keep what they derive. A file is written beside its
name and then renamed: it is there whole or not at all, also when two runs write it. It is read with the same bounds as
anything else. Where a file cannot be read, written or understood, the headers are read from the Hub.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inspector.errors import InspectorError
from inspector.records.checkpoint import LeftOut, StoredCheckpoint, StoredFile, StoredTensor, StoredVariant
from inspector.source.bounded_json import read_object

__all__ = ["load_checkpoint", "save_checkpoint"]

_FORM = 1
_MOST_BYTES = 48 * 2**20
# What a note raises that is absent or damaged, or whose values another release wrote in another form.
_UNREADABLE = (InspectorError, OSError, ValueError, TypeError, LookupError, AttributeError)


def load_checkpoint(name: str, commit: str) -> StoredCheckpoint | None:
    """Return what was kept of the repository `name` at `commit`, or None."""
    try:
        fields = read_object(_build_path(name, commit), most_bytes=_MOST_BYTES)
        return _build_checkpoint(fields["checkpoint"]) if fields["form"] == _FORM else None
    except _UNREADABLE:  # it is read anew
        return None


def save_checkpoint(name: str, commit: str, stored: StoredCheckpoint) -> None:
    """Write what was read of the repository `name` at `commit`; do nothing where the cache cannot be written."""
    path = _build_path(name, commit)
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"form": _FORM, "checkpoint": _list_fields(stored)}, file, separators=(",", ":"))
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)


def _build_path(name: str, commit: str) -> Path:
    from huggingface_hub import constants

    # `name` is a valid Hub id and `commit` 40 hexadecimal digits: neither can lead elsewhere.
    folder = Path(constants.HF_ASSETS_CACHE).expanduser() / "model-inspector" / name.replace("/", "--")
    return folder / f"{commit}.json"


def _list_fields(stored: StoredCheckpoint) -> dict[str, Any]:
    """Return the checkpoint as JSON values, short ones for the many tensors."""
    tensors = stored.tensors
    return {
        "format": stored.format,
        "weights": [[file.name, file.bytes] for file in stored.weights],
        "companions": [[file.name, file.bytes] for file in stored.companions],
        "tensors": None
        if tensors is None
        else {name: [tensor.dtype, list(tensor.shape), tensor.bytes] for name, tensor in tensors.items()},
        "variants": [[variant.name, variant.files, variant.bytes, dict(variant.dtypes)] for variant in stored.variants],
        "left_out": [[group.kind, group.files, group.bytes] for group in stored.left_out],
        "repository": [stored.repository_bytes, stored.repository_files],
    }


def _build_checkpoint(fields: Mapping[str, Any]) -> StoredCheckpoint:
    """Return the checkpoint that `_list_fields` wrote; raises anything when the values are not of its form."""
    tensors = fields["tensors"]
    repository_bytes, repository_files = fields["repository"]
    return StoredCheckpoint(
        format=None if fields["format"] is None else _check_text(fields["format"]),
        weights=tuple(_build_file(entry) for entry in fields["weights"]),
        companions=tuple(_build_file(entry) for entry in fields["companions"]),
        tensors=None
        if tensors is None
        else {
            name: StoredTensor(
                dtype=_check_text(dtype), shape=tuple(map(_check_count, shape)), bytes=_check_count(size)
            )
            for name, (dtype, shape, size) in tensors.items()
        },
        variants=tuple(
            StoredVariant(
                name=_check_text(name),
                files=_check_count(files),
                bytes=_check_count(size),
                dtypes={_check_text(dtype): _check_count(count) for dtype, count in dtypes.items()},
            )
            for name, files, size, dtypes in fields["variants"]
        ),
        left_out=tuple(
            LeftOut(kind=_check_text(kind), files=_check_count(files), bytes=_check_count(size))
            for kind, files, size in fields["left_out"]
        ),
        repository_bytes=None if repository_bytes is None else _check_count(repository_bytes),
        repository_files=_check_count(repository_files),
    )


def _build_file(value: Any) -> StoredFile:
    name, size = value
    return StoredFile(name=_check_text(name), bytes=None if size is None else _check_count(size))


def _check_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _check_count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value
