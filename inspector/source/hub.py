"""A Hub id -> its config.json or adapter_config.json and what it stores, from the Hub or from the local cache.

Of a repository that holds both files, the adapter's counts, as for `from_pretrained` (transformers 5.23): the base
that it names is loaded, and the model beside it only where that is the repository itself.

The huggingface_hub client does all talking. One request resolves the revision to a commit and lists the files; when
the cache has that commit, nothing more is asked for, but for the small file that says how an embedding model pools.
Otherwise the file is downloaded into the cache, and the headers of the weights are read by range requests. Not covered:
weights; they are never downloaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from inspector.errors import ModelUnavailableError, UnsupportedModelError, one_line, quoted
from inspector.records.notice import Notice
from inspector.records.source import ServedFrom, SourceFiles
from inspector.source import header_cache, hub_client
from inspector.source.bounded_json import MOST_BYTES, read_object
from inspector.source.checkpoint import UnreadError, find_pooling, read_checkpoint
from inspector.source.folder import FolderReader, list_files
from inspector.source.hub_client import HubError, silence_client, translate_errors
from inspector.source.listing import Repository, describe_repository
from inspector.source.local import ADAPTER_FILE, CONFIG_FILE
from inspector.source.processor import find_processor
from inspector.source.recognize.foreign import describe_foreign_files
from inspector.source.recognize.pipeline import (
    INDEX_FILE,
    is_component,
    list_component_configs,
    read_component,
    read_pipeline,
)
from inspector.source.recognize.sentence_modules import find_sentence_modules
from inspector.source.transport import fetch, run_within
from inspector.units import format_bytes

__all__ = ["EITHER_FILE", "HubReader", "ask_hub", "read_cache"]

_DEFAULT_BRANCH = "main"
EITHER_FILE = (ADAPTER_FILE, CONFIG_FILE, INDEX_FILE)
# A configuration is there in less than a second.
_DOWNLOAD_SECONDS = 60

Progress = Callable[[str], None]


def ask_hub(name: str, revision: str | None, progress: Progress, wanted: Sequence[str] = EITHER_FILE) -> SourceFiles:
    """Return what the Hub has for `name`; of an adapter, only `adapter_config` and `adapter_id` are filled.

    The first of the `wanted` files that is there says what it is. Raises HubError where another source may still help,
    ModelUnavailableError when the repository holds none of them or the cache cannot be written, UnsupportedModelError
    when the file is malformed.
    """
    with silence_client(), translate_errors():
        repository = describe_repository(name, revision)
        filename = _pick_file(name, [file.name for file in repository.files], wanted)
        path = _find_cached_file(name, filename, revision)
        if path is None or path.parent.name != repository.commit:
            try:
                with translate_errors():
                    path = _download_file(name, filename, revision, repository)
            except HubError as failure:
                # The sizes of the files are public, also where the files are not.
                failure.stored, _ = read_checkpoint(repository.files, {}, _Sealed(), progress)
                raise
        if filename == INDEX_FILE:
            for part in list_component_configs([file.name for file in repository.files]):
                if not (path.parent / part).exists():
                    _download_file(name, part, revision, repository)
        files = _build_source_files(name, path, ServedFrom.HUB, repository)
        is_model = files.adapter_config is None and files.pipeline is None
        return _add_checkpoint(files, repository, progress) if is_model else files


def read_cache(name: str, revision: str | None, wanted: Sequence[str] = EITHER_FILE) -> SourceFiles | None:
    """Return what the cache has for `name`, or None; no request is made."""
    if not _may_be_cached(name):
        return None
    with silence_client():
        for filename in wanted:
            path = _find_cached_file(name, filename, revision)
            if path is not None:
                files = _build_source_files(name, path, ServedFrom.CACHE, None)
                is_model = filename != ADAPTER_FILE and files.pipeline is None
                return _add_cached_checkpoint(files, path.parent) if is_model else files
    return None


def _add_checkpoint(files: SourceFiles, repository: Repository, progress: Progress) -> SourceFiles:
    """Add what the repository stores at the commit of the configuration: kept from an earlier run, or read now."""
    if repository.commit != files.revision:  # a branch moved between the two requests
        return files
    reader = HubReader(files.id, repository.commit)
    files = dataclasses.replace(
        files,
        pooling=find_pooling(repository.files, reader),
        sentence_modules=find_sentence_modules(repository.files, reader),
        processor=find_processor(repository.files, reader),
    )
    stored = header_cache.load_checkpoint(files.id, repository.commit)
    if stored is not None:
        return dataclasses.replace(files, checkpoint=stored)
    stored, notices = read_checkpoint(repository.files, files.config, reader, progress)
    if not notices:
        header_cache.save_checkpoint(files.id, repository.commit, stored)
    return dataclasses.replace(files, checkpoint=stored, notices=(*files.notices, *notices))


def _add_cached_checkpoint(files: SourceFiles, snapshot: Path) -> SourceFiles:
    """Add what is known here of the commit: what an earlier run read, or the headers of weights that are here."""
    present, reader = list_files(snapshot), FolderReader(snapshot)
    files = dataclasses.replace(
        files,
        pooling=find_pooling(present, reader),
        sentence_modules=find_sentence_modules(present, reader),
        processor=find_processor(present, reader),
    )
    stored = header_cache.load_checkpoint(files.id, str(files.revision))
    if stored is None:
        stored, _ = read_checkpoint(present, files.config, reader, lambda _stage: None)
        if stored.tensors is None:
            return files
        # What else the repository holds is not known: the cache has only the files that were asked for.
        stored = dataclasses.replace(stored, left_out=(), repository_bytes=None, repository_files=None)
    return dataclasses.replace(files, checkpoint=stored)


class HubReader:
    """Reads parts of files of one commit by HTTP range requests."""

    def __init__(self, name: str, commit: str) -> None:
        self._name, self._commit = name, commit

    def read_part(self, name: str, start: int, length: int) -> tuple[bytes, int | None]:
        """Return up to `length` bytes of a file from `start` on, and the size of the file."""
        try:
            with translate_errors():
                answer = fetch(self._url(name), most_bytes=length, start=start)
        except (HubError, ModelUnavailableError) as error:
            raise UnreadError(f"{one_line(name, 80)}: {error}") from error
        return answer.content, answer.file_bytes

    def read_whole(self, name: str, most_bytes: int) -> bytes:
        """Return a whole file of up to `most_bytes`; UnreadError where it is longer or cannot be had."""
        try:
            with translate_errors():
                return fetch(self._url(name), most_bytes=most_bytes).content
        except (HubError, ModelUnavailableError) as error:
            raise UnreadError(f"{one_line(name, 80)}: {error}") from error

    def _url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self._name, name, revision=self._commit, endpoint=hub_client.get_endpoint())


class _Sealed:
    """Reads nothing: stands for a repository whose files may be listed only."""

    def read_part(self, name: str, start: int, length: int) -> tuple[bytes, int | None]:
        """Raise UnreadError."""
        raise UnreadError(name)

    def read_whole(self, name: str, most_bytes: int) -> bytes:
        """Raise UnreadError."""
        raise UnreadError(name)


def _pick_file(name: str, filenames: list[str], wanted: Sequence[str]) -> str:
    for filename in wanted:
        if filename in filenames:
            return filename
    foreign = describe_foreign_files(filenames)
    if foreign is not None:
        raise ModelUnavailableError(f"{quoted(name)} on the Hub {foreign}")
    listed = ", ".join(quoted(filename, 60) for filename in filenames[:4]) or "no file at all"
    remainder = f" and {len(filenames) - 4} more" if len(filenames) > 4 else ""
    raise ModelUnavailableError(
        f"{quoted(name)} on the Hub has neither {CONFIG_FILE} nor {ADAPTER_FILE} (it holds {listed}{remainder}); "
        "name the repository of the original model."
    )


def _may_be_cached(name: str) -> bool:
    """Tell whether the cache has a folder of a name: the client looks for it first, and takes a while to import."""
    from huggingface_hub import constants

    try:
        return Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}").is_dir()
    except (OSError, ValueError):
        return True  # for the client to say


def _find_cached_file(name: str, filename: str, revision: str | None) -> Path | None:
    if not _may_be_cached(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        path = try_to_load_from_cache(name, filename, revision=revision or _DEFAULT_BRANCH)
    except (OSError, ValueError) as failure:  # unreadable directories; a reference file that is no text
        raise ModelUnavailableError(
            f"The Hugging Face cache cannot be read ({one_line(failure)}); set HF_HOME to a directory that can."
        ) from failure
    return Path(path) if isinstance(path, str) else None


def _download_file(name: str, filename: str, revision: str | None, repository: Repository) -> Path:
    """Download one file into the cache, by branch name: the client then also notes there what the branch points to.

    The client would resume a broken download for long, wait as a server tells it to, and hold a lock meanwhile. So the
    file is fetched within bounds first, which says at once what is wrong; the client's own download follows where
    nothing is.
    """
    from huggingface_hub import hf_hub_download, hf_hub_url

    revision = revision or _DEFAULT_BRANCH
    size = next((file.bytes for file in repository.files if file.name == filename), None)
    if size is not None and size > MOST_BYTES:
        raise UnsupportedModelError(
            f"{filename} of {quoted(name)} has {format_bytes(size)}, more than the {format_bytes(MOST_BYTES)} "
            "that are read of a configuration; name another model."
        )
    fetch(hf_hub_url(name, filename, revision=revision, endpoint=hub_client.get_endpoint()), most_bytes=MOST_BYTES)
    return run_within(
        _DOWNLOAD_SECONDS,
        lambda: Path(hf_hub_download(name, filename, revision=revision, endpoint=hub_client.get_endpoint())),
    )


def _build_source_files(name: str, path: Path, served_from: ServedFrom, repository: Repository | None) -> SourceFiles:
    fields = read_object(path, f"{path.name} of {quoted(name)}")
    commit = path.parent.name  # the cache keeps a directory for each commit
    if path.name == ADAPTER_FILE:
        return SourceFiles(
            id=name,
            revision=commit,
            served_from=served_from,
            config={},
            adapter_config=fields,
            adapter_id=name,
            adapter_alone=True,
        )
    if path.name == INDEX_FILE or is_component(fields):
        return _build_pipeline_files(name, path, fields, served_from, repository)
    # A branch can move between the two requests; the facts of the older commit are then left out.
    described = repository if repository is not None and repository.commit == commit else None
    return SourceFiles(
        id=name,
        revision=commit,
        served_from=served_from,
        config=fields,
        code_location=name,
        checkpoint_dtype=described.checkpoint_dtype if described else None,
        published=described.published if described else None,
        notices=_collect_rename_notices(name, described) if described else (),
    )


def _build_pipeline_files(
    name: str, path: Path, fields: Mapping[str, Any], served_from: ServedFrom, repository: Repository | None
) -> SourceFiles:
    """Return a pipeline of diffusers, or one part of it; sizes of files are known where the Hub was asked."""
    present = list_files(path.parent) if repository is None else repository.files
    if path.name == INDEX_FILE:
        pipeline = read_pipeline(name, fields, present, lambda part: read_object(path.parent / part))
    else:
        pipeline = read_component(name.rpartition("/")[2], fields, present)
    return SourceFiles(
        id=name,
        revision=path.parent.name,
        served_from=served_from,
        config=pipeline.denoiser.config,
        pipeline=pipeline,
        notices=_collect_rename_notices(name, repository) if repository is not None else (),
    )


def _collect_rename_notices(name: str, repository: Repository) -> tuple[Notice, ...]:
    """Return a notice where the Hub has the repository under another name by now."""
    if repository.id == name:
        return ()
    message = f"{quoted(name)} is called {quoted(repository.id)} on the Hub; the old name still leads there."
    return (Notice(code="renamed", message=message),)
