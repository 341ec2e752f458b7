"""The bundled catalogue: configurations of well-known models, so that they can be inspected without a network.

One file per model, `fixtures/models/<org>__<name>.json`, read only when asked for; the names alone answer `list_ids()`.
An installed package holds them in `inspector/fixtures/models`, a checkout at its top level. A file holds the Hub id,
its aliases, the configuration, the dtype of the stored weights and the published parameter count with its source.
The catalogue has no revisions: it is the state of each repository's main branch when the file was written.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inspector.records.checkpoint import StoredCheckpoint
from inspector.records.source import Published, ServedFrom, SourceFiles
from inspector.source.bounded_json import read_object

__all__ = ["list_ids", "list_near_ids", "load_model"]

# The kind of published count that is what the files hold.
_STORED = "hub safetensors total"
_PACKAGE = Path(__file__).resolve().parents[1]
_LOCATIONS = (_PACKAGE / "fixtures" / "models", _PACKAGE.parent / "fixtures" / "models")


def list_ids() -> tuple[str, ...]:
    """Return the Hub ids of the catalogue in alphabetical order."""
    return tuple(sorted(_list_files_by_id()))


def load_model(name: str) -> SourceFiles | None:
    """Return the model called `name` by id or alias, or None; letter case decides only between several."""
    files = _list_files_by_id()
    if name in files:  # the usual case, answered with one file read
        return _build_source_files(read_object(files[name]))
    entries = [read_object(path) for path in files.values()]
    by_exact_name = {known: entry for entry in entries for known in _list_names(entry)}
    by_folded_name = {known.casefold(): entry for known, entry in by_exact_name.items()}
    entry = by_exact_name.get(name) or by_folded_name.get(name.casefold())
    return None if entry is None else _build_source_files(entry)


def list_near_ids(name: str) -> list[str]:
    """Return up to three ids that `name` may have been meant to be, the nearest first."""
    by_folded_id = {known.casefold(): known for known in list_ids()}
    # Either the whole id is nearly right, or the model's name is and the organisation is missing or another one.
    whole = difflib.get_close_matches(name.casefold(), by_folded_id, n=3, cutoff=0.8)
    by_folded_end = {folded.rpartition("/")[2]: known for folded, known in by_folded_id.items()}
    ends = difflib.get_close_matches(name.casefold().rpartition("/")[2], by_folded_end, n=3, cutoff=0.8)
    found = [by_folded_id[folded] for folded in whole] + [by_folded_end[folded] for folded in ends]
    return list(dict.fromkeys(found))[:3]


def _list_files_by_id() -> dict[str, Path]:
    # A name is only ever looked up in this listing, never joined to a path: it cannot lead out of the directory.
    for location in _LOCATIONS:
        paths = sorted(location.glob("*.json"))
        if paths:
            return {path.stem.replace("__", "/", 1): path for path in paths}
    return {}


def _list_names(entry: Mapping[str, Any]) -> list[str]:
    return [*entry["aliases"], entry["id"]]


def _build_source_files(entry: Mapping[str, Any]) -> SourceFiles:
    published = entry["published"]
    is_stored = published["kind"] == _STORED
    return SourceFiles(
        id=entry["id"],
        served_from=ServedFrom.BUNDLED,
        config=entry["config"],
        code_location=entry["id"],
        checkpoint_dtype=entry["checkpoint_dtype"],
        checkpoint=StoredCheckpoint(parameters=published["parameters"] if is_stored else None),
        published=Published(
            parameters=published["parameters"],
            kind=published["kind"],
            source=published["source"],
            explanation=published.get("explanation"),
        ),
    )
