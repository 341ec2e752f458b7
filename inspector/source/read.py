"""What a request names -> the files of its source; importing this module loads no client."""

from __future__ import annotations

import os
from collections.abc import Callable

from inspector.errors import ModelUnavailableError, one_line
from inspector.records.engines.serving import Engine
from inspector.records.request import Request
from inspector.records.source import SourceFiles

__all__ = ["read_files"]


def read_files(request: Request, progress: Callable[[str], None]) -> SourceFiles | None:
    """Return what the source holds for a named model; a live object of the Python API needs no source.

    Raises ModelUnavailableError where no source has it, UnsupportedModelError where what it has is malformed.
    """
    if not isinstance(request.model, (str, os.PathLike)):
        return None
    name = os.fspath(request.model)
    if request.serving is not None and request.serving.engine == Engine.LLAMA_CPP:
        from inspector.source.gguf.read import read_gguf

        progress("reading the GGUF file")
        return read_gguf(name, revision=request.revision, offline=request.offline, progress=progress)
    from inspector.source.checkpoint import add_stored_dtype
    from inspector.source.locate import locate
    from inspector.source.mixed_adapters import add_mixed_adapters
    from inspector.source.recognize.foreign import refuse_foreign
    from inspector.source.recognize.timm import adapt_timm

    progress("reading the configuration")
    try:
        files = locate(name, revision=request.revision, offline=request.offline, progress=progress)
    except ModelUnavailableError as error:
        if request.source is None or request.source.file is None:
            raise
        raise ModelUnavailableError(f"{error} {_name_another(name, request.source.file.path)}") from error
    refuse_foreign(files)
    files = add_mixed_adapters(
        add_stored_dtype(adapt_timm(files)), request.peft, offline=request.offline, progress=progress
    )
    if request.workload != "generate" or request.serving is not None:
        return files
    from inspector.source.generation_config import add_decoding

    return add_decoding(files)


def _name_another(name: str, path: str) -> str:
    """Return how a training file is read with a model in the place of one that could not be had."""
    from inspector.source import catalogue
    from inspector.source.recognize.nearest import list_near_ids

    near = next(iter(list_near_ids(name, catalogue.list_ids())), "org/name")
    return f"{one_line(path, 60)} is read with another model by `base_model={near}`."
