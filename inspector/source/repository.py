"""Which files of a repository or directory `from_pretrained` loads, and what the others are; from their names alone.

The order is that of transformers (`_get_resolved_checkpoint_files`, 5.23): the file that config.json names in
`transformers_weights`, then model.safetensors, model.safetensors.index.json, pytorch_model.bin and
pytorch_model.bin.index.json. Files with a variant in their name (model.fp16.safetensors) are loaded on request only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspector.records.checkpoint import LeftOut, StoredFile
from inspector.source.safetensors_header import is_plain_name

__all__ = ["Choice", "choose_weights", "find_variants", "list_companions", "list_left_out", "list_shards"]

_COMPANIONS = ("config.json", "generation_config.json")
_SAFETENSORS, _PICKLE = "safetensors", "pickle"
_ORDER: tuple[tuple[str, str], ...] = (
    ("model.safetensors", _SAFETENSORS),
    ("model.safetensors.index.json", _SAFETENSORS),
    ("pytorch_model.bin", _PICKLE),
    ("pytorch_model.bin.index.json", _PICKLE),
)
_VARIANT = re.compile(
    r"(?:model|pytorch_model)(?:\.(?P<first>[\w-]+?)(?:-\d{5}-of-\d{5})?|-\d{5}-of-\d{5}\.(?P<second>\w[\w-]*))"
    r"\.(?P<suffix>safetensors|bin)"
)
# What a file that is not loaded is, by the end of its name; the first that fits.
_KINDS = (
    (_SAFETENSORS, (".safetensors",)),
    (_PICKLE, (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")),
    ("gguf", (".gguf", ".ggml")),
    ("other frameworks", (".h5", ".msgpack", ".ot", ".tflite", ".mlmodel", ".npz", ".nemo", ".onnx", ".onnx_data")),
)
_OTHER = "other files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is loaded: one file, or the files that `index` names."""

    format: str
    file: str | None = None
    index: str | None = None


def choose_weights(names: Iterable[str], config: Mapping[str, Any]) -> Choice | None:
    """Return what `from_pretrained` loads of files with these names, or None when it finds no weights."""
    present = set(names)
    named = config.get("transformers_weights")
    order = _ORDER
    if isinstance(named, str) and is_plain_name(named) and named.endswith((".safetensors", ".safetensors.index.json")):
        order = ((named, _SAFETENSORS), *_ORDER)
    for name, kind in order:
        if name in present:
            return Choice(format=kind, index=name) if name.endswith(".json") else Choice(format=kind, file=name)
    return None


def list_shards(names: Iterable[str], index: str) -> list[str]:
    """Return the files that are the index's by their names, for where the index itself cannot be read."""
    stem, _, suffix = index.removesuffix(".index.json").rpartition(".")
    numbered = re.compile(rf"{re.escape(stem)}-\d{{5}}-of-\d{{5}}\.{re.escape(suffix)}")
    return sorted(name for name in names if numbered.fullmatch(name))


def find_variants(files: Sequence[StoredFile], loaded: Iterable[str]) -> dict[str, list[StoredFile]]:
    """Return the weight files of each variant, safetensors where a variant has both."""
    taken = set(loaded)
    found: dict[str, dict[str, list[StoredFile]]] = {}
    for file in files:
        match = _VARIANT.fullmatch(file.name)
        if match is not None and file.name not in taken:
            by_suffix = found.setdefault(match["first"] or match["second"], {})
            by_suffix.setdefault(match["suffix"], []).append(file)
    return {name: by_suffix.get("safetensors") or by_suffix["bin"] for name, by_suffix in sorted(found.items())}


def list_companions(files: Sequence[StoredFile], index: str | None) -> tuple[StoredFile, ...]:
    """Return the small files that `from_pretrained` downloads beside the weights."""
    return tuple(file for file in files if file.name in _COMPANIONS or file.name == index)


def list_left_out(files: Sequence[StoredFile], taken: Iterable[StoredFile]) -> tuple[LeftOut, ...]:
    """Return what is not loaded, by kind, weights first; files whose size is not known count as empty."""
    names = {file.name for file in taken}
    sizes: dict[str, list[int]] = {kind: [] for kind in (*dict(_KINDS), _OTHER)}
    for file in files:
        if file.name not in names:
            sizes[_find_kind(file.name)].append(file.bytes or 0)
    return tuple(LeftOut(kind=kind, files=len(found), bytes=sum(found)) for kind, found in sizes.items() if found)


def _find_kind(name: str) -> str:
    lowered = name.lower()
    return next((kind for kind, ends in _KINDS if lowered.endswith(ends)), _OTHER)
