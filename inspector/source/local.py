"""A path on this machine -> files: a config.json by any name, or a directory that holds one, an adapter's, or both.

A directory with both is the model that is there with the adapter on it, whatever base the adapter names: so loads it
`from_pretrained` (transformers 5.23, `maybe_load_adapters` and `AutoModel.from_pretrained`).

Not covered: which commit or checkpoint the files came from; they are taken as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inspector.errors import ModelUnavailableError, one_line, quoted
from inspector.records.source import ServedFrom, SourceFiles
from inspector.runtime.confinement import takes_local_paths
from inspector.source.bounded_json import read_object
from inspector.source.checkpoint import find_pooling, read_checkpoint
from inspector.source.folder import FolderReader, list_files
from inspector.source.processor import find_processor
from inspector.source.recognize.foreign import describe_foreign_files
from inspector.source.recognize.pipeline import INDEX_FILE, is_component, read_component, read_pipeline
from inspector.source.recognize.sentence_modules import find_sentence_modules

__all__ = ["ADAPTER_FILE", "CONFIG_FILE", "add_checkpoint", "find_files", "is_path_like"]

CONFIG_FILE = "config.json"
ADAPTER_FILE = "adapter_config.json"


def find_files(name: str) -> SourceFiles | None:
    """Return what the path `name` holds, or None when there is nothing by that name here.

    Of an adapter alone, only `adapter_config` and `adapter_id` are filled: its base model is for `locate` to find.
    Raises ModelUnavailableError when the path is there without a configuration or cannot be read.
    """
    if not takes_local_paths():
        return None
    beside = None
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            path, beside = _find_file(path, name)
        elif not path.exists():
            return None
    except (OSError, RuntimeError, ValueError) as failure:  # no permission, `~nobody`, a NUL or an endless name
        if not is_path_like(name):
            return None
        reason = getattr(failure, "strerror", None) or failure
        raise ModelUnavailableError(f"The path {quoted(name)} cannot be read: {one_line(reason)}.") from failure
    if path.suffix.lower() == ".gguf":
        raise ModelUnavailableError(
            f"{quoted(name)} is a GGUF file, which is read for llama.cpp: add `engine=llama.cpp`, or name the "
            "repository of the original model."
        )
    if path.suffix != ".json":
        raise ModelUnavailableError(
            f"{quoted(name)} is a file but no config.json; name a JSON file or the directory that holds it."
        )
    files = _build_source_files(path, name, read_object(path))
    if beside is None:
        return files
    return dataclasses.replace(files, adapter_config=read_object(beside), adapter_id=name)


def add_checkpoint(files: SourceFiles, progress: Callable[[str], None]) -> SourceFiles:
    """Add what is stored beside the config.json of a local model."""
    if files.code_location is None:
        return files
    folder = Path(files.code_location)
    present, reader = list_files(folder), FolderReader(folder)
    stored, notices = read_checkpoint(present, files.config, reader, progress)
    return dataclasses.replace(
        files,
        checkpoint=stored,
        pooling=find_pooling(present, reader),
        sentence_modules=find_sentence_modules(present, reader),
        processor=find_processor(present, reader),
        notices=(*files.notices, *notices),
    )


def is_path_like(name: str) -> bool:
    """Tell whether `name` is written as a path, which no Hub id is."""
    return name.startswith((".", "/", "~")) or name.endswith(("/", ".json")) or "\\" in name


def _find_file(directory: Path, name: str) -> tuple[Path, Path | None]:
    """Return the file that says what a directory is, and the adapter's beside that of a model."""
    model, adapter = directory / CONFIG_FILE, directory / ADAPTER_FILE
    index = directory / INDEX_FILE
    if index.exists() and not model.exists():
        return index, None
    if model.exists():
        return model, adapter if adapter.exists() else None
    if adapter.exists():
        return adapter, None
    present = [file.name for file in list_files(directory)]
    foreign = describe_foreign_files(present)
    if foreign is not None:
        raise ModelUnavailableError(f"The directory {quoted(name)} {foreign}")
    if any(file.lower().endswith(".gguf") for file in present):
        raise ModelUnavailableError(
            f"The directory {quoted(name)} holds GGUF files and no {CONFIG_FILE}; add `engine=llama.cpp` to read one, "
            "or name the repository of the original model."
        )
    raise ModelUnavailableError(
        f"The directory {quoted(name)} holds neither {CONFIG_FILE} nor {ADAPTER_FILE}; name one that does"
        f"{'' if is_path_like(name) else ', or run from another directory to mean the Hub id'}."
    )


def _build_source_files(path: Path, name: str, fields: dict[str, Any]) -> SourceFiles:
    if path.name == ADAPTER_FILE:
        return SourceFiles(
            id=name,
            served_from=ServedFrom.LOCAL,
            config={},
            adapter_config=fields,
            adapter_id=name,
            adapter_alone=True,
        )
    if path.name == INDEX_FILE:
        pipeline = read_pipeline(name, fields, list_files(path.parent), lambda part: read_object(path.parent / part))
        return SourceFiles(id=name, served_from=ServedFrom.LOCAL, config=pipeline.denoiser.config, pipeline=pipeline)
    if path.name == CONFIG_FILE and is_component(fields):
        pipeline = read_component(path.parent.resolve().name, fields, list_files(path.parent))
        return SourceFiles(id=name, served_from=ServedFrom.LOCAL, config=fields, pipeline=pipeline)
    return SourceFiles(
        id=name,
        served_from=ServedFrom.LOCAL,
        config=fields,
        # Code is found beside a file of this very name only.
        code_location=str(path.parent) if path.name == CONFIG_FILE else None,
    )
