"""The generation_config.json beside a config.json: how the model's makers want tokens to be chosen.

transformers reads it where it loads a model; without one it decodes greedily. It is fetched for generations alone. A
file that is no JSON is an error here, where transformers says nothing and goes on without.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from inspector.errors import ModelUnavailableError, UnsupportedModelError, UsageError, one_line, quoted
from inspector.records.notice import Notice
from inspector.records.source import ServedFrom, SourceFiles
from inspector.records.steps.decoding import OWN_SETTINGS, select_decoding
from inspector.source import hub_client
from inspector.source.bounded_json import MOST_BYTES, read_object
from inspector.source.hub_client import Cause, HubError, silence_client, translate_errors
from inspector.source.transport import fetch, run_within

__all__ = ["GENERATION_FILE", "add_decoding"]

GENERATION_FILE = "generation_config.json"
_DOWNLOAD_SECONDS = 60
# What asks for another cache than the one that is traced unless an option says so.
_OF_THE_CACHE = ("use_cache", "cache_implementation")


def add_decoding(files: SourceFiles) -> SourceFiles:
    """Add what a generation_config.json of the source says.

    Raises UnsupportedModelError where it is malformed.
    """
    try:
        path = _find_file(files)
    except (HubError, ModelUnavailableError) as error:
        message = f"{GENERATION_FILE} could not be had ({one_line(error, 120)}): tokens are chosen greedily."
        return dataclasses.replace(files, notices=(*files.notices, Notice(code="greedy-assumed", message=message)))
    if path is None:
        return files
    what = f"{GENERATION_FILE} of {quoted(files.id)}"
    fields = read_object(path, what)
    try:
        decoding = select_decoding(fields)
    except UsageError as error:
        raise UnsupportedModelError(f"{what}: {str(error).removeprefix('`generation`: ')} Correct it.") from error
    return dataclasses.replace(files, decoding=decoding, notices=(*files.notices, *_list_notices(fields)))


def _list_notices(fields: dict[str, Any]) -> tuple[Notice, ...]:
    """Return what of a file is not read, because a setting here goes before it."""
    asked = [key for key in _OF_THE_CACHE if fields.get(key) not in (None, True, "dynamic", "hybrid")]
    if not asked:
        return ()
    message = (
        f"{GENERATION_FILE} says {', '.join(f'{key} {one_line(fields[key], 30)}' for key in asked)}, which is not "
        f"followed: what is kept of the tokens is what `{OWN_SETTINGS[asked[0]]}` says."
    )
    return (Notice(code="cache-not-followed", message=message),)


def _find_file(files: SourceFiles) -> Path | None:
    """Return where the file is on this machine, fetched where it has to be; None where the source has none."""
    if files.served_from is ServedFrom.LOCAL:
        path = None if files.code_location is None else Path(files.code_location) / GENERATION_FILE
        return path if path is not None and path.exists() else None
    if files.served_from is ServedFrom.BUNDLED or files.revision is None:
        return None
    from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache

    with silence_client():
        known = try_to_load_from_cache(files.id, GENERATION_FILE, revision=files.revision)
        if isinstance(known, str):
            return Path(known)
        if known is not None:  # the cache remembers that the repository has none
            return None
        if files.served_from is ServedFrom.CACHE:
            raise ModelUnavailableError("it is not in the cache")
        endpoint = hub_client.get_endpoint()
        try:
            with translate_errors():
                url = hf_hub_url(files.id, GENERATION_FILE, revision=files.revision, endpoint=endpoint)
                fetch(url, most_bytes=MOST_BYTES)
        except HubError as error:
            if error.cause is Cause.NOT_FOUND:
                return None
            raise
        return run_within(
            _DOWNLOAD_SECONDS,
            lambda: Path(hf_hub_download(files.id, GENERATION_FILE, revision=files.revision, endpoint=endpoint)),
        )
