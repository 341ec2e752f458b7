"""What sentence-transformers puts behind an encoder: modules.json of a repository, and the settings of what it names.

Source: sentence-transformers 6.2, `Module.load` and `SentenceTransformer._load_sbert_model`: modules are listed in
order, each with its class and the folder of its config.json. Of a class the last part of its name is read, since
the library moved them between its folders.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from inspector.errors import InspectorError, UnsupportedModelError
from inspector.records.checkpoint import StoredFile
from inspector.records.source import SentenceModule
from inspector.source.bounded_json import parse_object
from inspector.source.checkpoint import PartReader, UnreadError

__all__ = ["find_sentence_modules"]

_LIST = "modules.json"
_MOST_BYTES = 64 * 2**10
_MOST_MODULES = 16
_MOST_FEATURES = 2**20
_FOLDER = re.compile(r"[\w.-]{1,80}")


def find_sentence_modules(files: Sequence[StoredFile], reader: PartReader) -> tuple[SentenceModule, ...]:
    """Return the modules behind the pooling, in their order; none where no file names any or one cannot be read."""
    names = {file.name for file in files}
    if _LIST not in names:
        return ()
    try:
        content = reader.read_whole(_LIST, _MOST_BYTES)
        listed = parse_object(b'{"modules": ' + content + b"}", _LIST).get("modules")
        if not isinstance(listed, list) or len(listed) > _MOST_MODULES:
            return ()
        return tuple(_read_module(item, names, reader) for item in _skip_pooling(listed))
    except (UnreadError, InspectorError):  # the encoder and its pooling alone are traced then
        return ()


def _skip_pooling(listed: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Return what is listed behind the pooling."""
    modules: list[Mapping[str, Any]] = [item for item in listed if isinstance(item, dict)]
    places = [index for index, item in enumerate(modules) if _find_class(item) == "Pooling"]
    return modules[places[0] + 1 :] if places else []


def _find_class(item: Mapping[str, Any]) -> str:
    """Return the name of the class of a listed module."""
    return str(item.get("type") or "").rpartition(".")[2][:40]


def _read_module(item: Mapping[str, Any], names: set[str], reader: PartReader) -> SentenceModule:
    """Return a listed module with its settings; raise UnsupportedModelError where they make no sense."""
    kind, folder = _find_class(item), str(item.get("path") or "")
    if kind != "Dense":
        return SentenceModule(kind=kind)
    path = f"{folder}/config.json"
    if not _FOLDER.fullmatch(folder) or path not in names:
        raise UnsupportedModelError(f"{_LIST} names a Dense without its config.json.")
    fields = parse_object(reader.read_whole(path, _MOST_BYTES), path)
    sizes = fields.get("in_features"), fields.get("out_features")
    if not all(isinstance(size, int) and 0 < size <= _MOST_FEATURES for size in sizes):
        raise UnsupportedModelError(f"{path} has no sizes.")
    return SentenceModule(
        kind=kind,
        in_features=sizes[0],
        out_features=sizes[1],
        bias=fields.get("bias") is not False,
        activation=str(fields.get("activation_function") or "Tanh").rpartition(".")[2][:40],
        is_plain=not fields.get("use_residual")
        and fields.get("module_input_name", "sentence_embedding") == "sentence_embedding"
        and fields.get("module_output_name") in (None, "sentence_embedding"),
    )
