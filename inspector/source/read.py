"""What a request names -> the files of its source; importing this module loads no client."""

from __future__ import annotations

import os
from collections.abc import Callable

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
    from inspector.source.recognize.foreign import refuse_foreign

    progress("reading the configuration")
    files = locate(name, revision=request.revision, offline=request.offline, progress=progress)
    refuse_foreign(files)
    files = add_stored_dtype(files)
    if request.workload != "generate" or request.serving is not None:
        return files
    from inspector.source.generation_config import add_decoding

    return add_decoding(files)
