"""A request for a serving engine -> its report: nothing runs, and a GGUF file is not even built."""

from __future__ import annotations

from collections.abc import Callable

from inspector.engines.serve import serve_checkpoint, serve_gguf
from inspector.errors import UsageError
from inspector.hardware.selection import Selection
from inspector.records.report import Report
from inspector.records.request import Request
from inspector.records.source import SourceFiles
from inspector.runtime.versions import find_versions

__all__ = ["serve"]


def serve(request: Request, files: SourceFiles | None, selection: Selection, progress: Callable[[str], None]) -> Report:
    """Return what an engine makes of a model, from the files of its source, and of the cards that were named."""
    versions = find_versions()
    if files is not None and files.gguf is not None:
        from inspector.engines.gguf_census import count_gguf, describe_gguf, describe_gguf_files
        from inspector.engines.llama_cpp import find_position_notices

        serving = serve_gguf(request, files, selection)
        return Report(
            versions=versions,
            model=describe_gguf(files),
            parameters=count_gguf(files.gguf),
            checkpoint=describe_gguf_files(files.gguf),
            serving=serving,
            warnings=(*files.notices, *selection.notices, *find_position_notices(files.gguf, serving)),
        )
    progress("loading transformers")

    from inspector.memory.checkpoint_cost import gather_checkpoint_facts
    from inspector.model.build import count_model

    progress("building the model without its weights")
    counted, built = count_model(request, files, progress)
    if built is None:
        raise UsageError("`engine` is about a model by its name or its configuration, not about one that was built.")
    if counted.adapter is not None:
        raise UsageError("`engine` is about a model without an adapter; name its base model, or merge the adapter.")
    stored = None if files is None else files.checkpoint
    serving = serve_checkpoint(
        request, built.model.config, counted, built.model.named_parameters(), built.roles, selection
    )
    return Report(
        versions=versions,
        source=request.source,
        model=counted.model,
        parameters=counted.census,
        quantization=counted.quantization,
        checkpoint=None if stored is None else gather_checkpoint_facts(stored, counted),
        serving=serving,
        # No step is traced, with dequantized weights or others.
        warnings=(*(item for item in counted.notices if item.code != "quantized-checkpoint"), *selection.notices),
    )
