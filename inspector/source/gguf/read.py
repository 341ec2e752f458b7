"""A path or a Hub id -> the headers of a GGUF model: a file, a folder of them, or a repository.

`./model.gguf`, `./folder` and `org/name`, both with `:Q4_K_M` behind them where they hold several (`choose`), and
`org/name/file.gguf`. Only headers are read: of a file on the Hub by range requests, some MB for the vocabulary in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from inspector.errors import ModelUnavailableError, UnsupportedModelError, one_line, quoted
from inspector.records.engines.gguf import GgufModel, GgufTensor
from inspector.records.source import ServedFrom, SourceFiles
from inspector.source import catalogue, hub, hub_client, listing, local
from inspector.source.checkpoint import PartReader, UnreadError
from inspector.source.folder import FolderReader, list_files
from inspector.source.gguf.choose import choose_model, is_gguf_name, list_parts
from inspector.source.gguf.header import parse_header
from inspector.source.hub_client import HubError
from inspector.source.locate import explain_failure

__all__ = ["is_gguf_name", "read_gguf"]

_TAGGED = re.compile(r"(?P<name>.+):(?P<tag>[A-Za-z0-9_.-]{1,64})")

Progress = Callable[[str], None]


def read_gguf(name: str, *, revision: str | None, offline: bool, progress: Progress) -> SourceFiles:
    """Return the files of a GGUF model; its configuration stays empty.

    Raises ModelUnavailableError where there is none, UnsupportedModelError where a header is malformed.
    """
    match = _TAGGED.fullmatch(name)
    plain, tag = (match["name"], match["tag"]) if match and not Path(name).exists() else (name, None)
    found = _read_path(plain, tag, progress)
    if found is not None:
        return found
    return _read_hub(plain, tag, revision, offline or hub_client.is_offline(), progress)


def _read_path(name: str, tag: str | None, progress: Progress) -> SourceFiles | None:
    """Return the model at a path, None where no path of that name is here."""
    try:
        path = Path(name).expanduser()
        is_folder = path.is_dir()
        if not is_folder and not path.exists():
            if local.is_path_like(name):
                raise ModelUnavailableError(
                    f"The path {quoted(name)} is not here; name a GGUF file, a folder of them or a Hub id (org/name)."
                )
            return None
    except (OSError, RuntimeError, ValueError) as failure:  # no permission, `~nobody`, a NUL or an endless name
        raise ModelUnavailableError(f"The path {quoted(name)} cannot be read: {one_line(failure)}.") from failure
    folder = path if is_folder else path.parent
    if is_folder:
        first = choose_model([file.name for file in list_files(folder)], tag, f"The directory {quoted(name)}")
    else:
        first = path.name
    model = _read_model(first, FolderReader(folder), progress)
    return SourceFiles(id=name, served_from=ServedFrom.LOCAL, config={}, gguf=model)


def _read_hub(name: str, tag: str | None, revision: str | None, offline: bool, progress: Progress) -> SourceFiles:
    """Return a model of the Hub; offline, one whose files the cache has."""
    hub_client.load_client()
    parts = name.split("/", 2)
    identity, file = ("/".join(parts[:2]), parts[2]) if len(parts) == 3 and is_gguf_name(parts[2]) else (name, None)
    if not hub_client.is_valid_id(identity):
        raise ModelUnavailableError(
            f"{quoted(name)} is neither a path on this machine nor a Hub id; name a GGUF file, or org/name:Q4_K_M."
        )
    if offline:
        return _read_cache(identity, file, tag, revision, progress)
    try:
        with hub_client.silence_client(), hub_client.translate_errors():
            repository = listing.describe_repository(identity, revision)
            first = _pick([item.name for item in repository.files], file, tag, f"{quoted(identity)} on the Hub")
            model = _read_model(first, hub.HubReader(identity, repository.commit), progress)
    except HubError as failure:
        raise ModelUnavailableError(explain_failure(identity, revision, failure)) from failure
    return SourceFiles(
        id=f"{identity}/{first}",
        revision=repository.commit,
        served_from=ServedFrom.HUB,
        config={},
        gguf=model,
    )


def _read_cache(name: str, file: str | None, tag: str | None, revision: str | None, progress: Progress) -> SourceFiles:
    """Return a model of the local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError) as failure:
        if name in catalogue.list_ids():
            raise ModelUnavailableError(
                f"{quoted(name)} is a checkpoint of transformers, and llama.cpp reads GGUF alone: name a repository of "
                "it as GGUF, such as org/name-GGUF:Q4_K_M, or a file of it."
            ) from failure
        raise ModelUnavailableError(
            f"Offline, and {quoted(name)} is not in the Hugging Face cache; drop `offline` or unset HF_HUB_OFFLINE to "
            "ask the Hub."
        ) from failure
    names = [item.name for item in list_files(folder)]
    first = _pick(names, file, tag, f"{quoted(name)} in the Hugging Face cache")
    model = _read_model(first, FolderReader(folder), progress)
    return SourceFiles(id=f"{name}/{first}", revision=folder.name, served_from=ServedFrom.CACHE, config={}, gguf=model)


def _pick(names: Sequence[str], file: str | None, tag: str | None, what: str) -> str:
    """Return the file that was named, or the one that is meant."""
    if file is None:
        return choose_model(names, tag, what)
    if file not in names:
        raise ModelUnavailableError(f"{what} has no file {quoted(file, 80)}; name one that it has.")
    return list_parts(file)[0]


def _read_model(first: str, reader: PartReader, progress: Progress) -> GgufModel:
    """Return the model of a file and its further parts."""
    names = list_parts(first)
    tensors: list[GgufTensor] = []
    metadata, size = None, 0
    for index, name in enumerate(names):
        progress("reading the header of the GGUF file" + (f": {index + 1} of {len(names)}" if len(names) > 1 else ""))
        try:
            _, file_bytes = reader.read_part(name, 0, 4)
            header = parse_header(_Parts(reader, name), file_bytes, quoted(name))
        except UnreadError as failure:
            raise ModelUnavailableError(
                f"The header of {quoted(name)} was not read ({one_line(failure)}); check the file, or try again."
            ) from failure
        metadata = header.metadata if metadata is None else metadata
        tensors += header.tensors
        size += header.bytes + header.data_bytes if file_bytes is None else file_bytes
    assert metadata is not None
    seen = {tensor.name for tensor in tensors}
    if len(seen) != len(tensors):
        raise UnsupportedModelError(f"Parts of {quoted(first)} hold tensors of one name; get the files again.")
    return GgufModel(files=tuple(names), file_bytes=size, metadata=metadata, tensors=tuple(tensors))


class _Parts:
    """Reads parts of one file, as `parse_header` asks for them."""

    def __init__(self, reader: PartReader, name: str) -> None:
        self._reader, self._name = reader, name

    def __call__(self, start: int, length: int) -> bytes:
        """Return up to `length` bytes from `start` on."""
        return self._reader.read_part(self._name, start, length)[0]
