"""What the Hub says of a repository without reading its files: commit, names and sizes, and what else is near.

One request, `/api/models/<id>?blobs=true`, answers for a repository of any size. It is parsed here and not by the
client's `ModelInfo`, which also interprets the model card that any user may write.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from inspector.dtypes import BY_TORCH_NAME, LOADED_IN
from inspector.errors import ModelUnavailableError
from inspector.records.checkpoint import StoredFile
from inspector.records.source import Published
from inspector.source import hub_client
from inspector.source.bounded_json import MOST_BYTES, parse_object
from inspector.source.safetensors_header import is_plain_name
from inspector.source.transport import EndlessAnswerError, fetch

__all__ = ["Repository", "describe_repository", "find_other_kind", "list_near_revisions"]

_LARGEST_COUNT = 2**63 - 1
_MOST_FILES = 100_000
_LOADED_IN = {BY_TORCH_NAME[name].safetensors: name for name in LOADED_IN}
_OTHER_KINDS = {"datasets": "dataset", "spaces": "Space"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """What the Hub answers about a repository, checked. `id` is its present name; files with odd names are left out."""

    id: str
    commit: str
    files: tuple[StoredFile, ...]
    published: Published | None
    checkpoint_dtype: str | None


def describe_repository(name: str, revision: str | None) -> Repository:
    """Return what the Hub says of `name`; raises what the client raises, ValueError for an answer of another form."""
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    info = _fetch_object(f"/api/models/{name}{at}?blobs=true")
    commit, siblings = info.get("sha"), info.get("siblings")
    if not hub_client.is_commit(commit) or not isinstance(siblings, list) or len(siblings) > _MOST_FILES:
        raise ValueError("no commit or no list of files")
    total, dtypes = _count_stored_parameters(info.get("safetensors"))
    published = None
    if total is not None:
        source = f"{hub_client.describe_endpoint()}/api/models/{name}"
        published = Published(parameters=total, kind="Hub safetensors total", source=source)
    present = info.get("id")
    return Repository(
        id=present if isinstance(present, str) and hub_client.is_valid_id(present) else name,
        commit=str(commit),
        files=_list_files(siblings),
        published=published,
        # What transformers' dtype="auto" finds is the dtype of the first weight; the most frequent one is that.
        checkpoint_dtype=max(dtypes, key=lambda dtype: dtypes[dtype]) if dtypes else None,
    )


def list_near_revisions(name: str, revision: str) -> list[str]:
    """Return up to three branches and tags, the nearest to `revision` first; none where the Hub does not list them."""
    try:
        refs = _fetch_object(f"/api/models/{name}/refs")
        found = [item["name"] for kind in ("branches", "tags") for item in refs.get(kind) or ()]
    except _list_hint_errors():
        return []
    names = [item for item in found[:10_000] if isinstance(item, str)]
    near = difflib.get_close_matches(revision, names, n=3, cutoff=0.5)
    return list(dict.fromkeys([*near, *names]))[:3]


def find_other_kind(name: str) -> str | None:
    """Return "dataset" or "Space" when the Hub has one by that name, else None."""
    for path, kind in _OTHER_KINDS.items():
        with contextlib.suppress(*_list_hint_errors()):
            _fetch_object(f"/api/{path}/{name}")
            return kind
    return None


def _fetch_object(path: str) -> dict[str, Any]:
    answer = fetch(hub_client.get_endpoint() + path, most_bytes=MOST_BYTES)
    try:
        return parse_object(answer.content, "it", error=ModelUnavailableError)
    except ModelUnavailableError as error:
        raise ValueError(str(error)) from error


def _list_hint_errors() -> tuple[type[Exception], ...]:
    """Return what is raised where a hint cannot be had: requests that fail, and answers of another form."""
    forms = (ValueError, TypeError, LookupError, AttributeError)
    return (hub_client.find_transport_error(), EndlessAnswerError, OSError, *forms)


def _list_files(siblings: list[Any]) -> tuple[StoredFile, ...]:
    """Return the files of a repository; nothing by a name that leads elsewhere is ever asked for or opened."""
    files = []
    for sibling in siblings:
        name, size = sibling["rfilename"], sibling.get("size")
        if isinstance(name, str) and is_plain_name(name):
            files.append(StoredFile(name=name, bytes=size if size == 0 or _is_count(size) else None))
    return tuple(files)


def _count_stored_parameters(stored: Any) -> tuple[int | None, dict[str, int]]:
    """Return the total of stored elements and the counts by floating torch dtype, as far as they are sane."""
    if not isinstance(stored, Mapping):
        return None, {}
    total = stored.get("total")
    by_dtype = stored.get("parameters")
    counts = by_dtype if isinstance(by_dtype, Mapping) else {}
    return total if _is_count(total) else None, {
        _LOADED_IN[dtype]: count for dtype, count in counts.items() if dtype in _LOADED_IN and _is_count(count)
    }


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value <= _LARGEST_COUNT
