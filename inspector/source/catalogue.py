"""The bundled catalogue: configurations of well-known models, so that they can be inspected without a network.

One file per model, `fixtures/models/<org>__<name>.json`, read only when asked for; the names alone answer `list_ids()`.
An installed package holds them in `inspector/fixtures/models`, a checkout at its top level. A file holds the Hub id,
its aliases, the configuration, the dtype of the stored weights and the published parameter count with its source.
The catalogue has no revisions: it is the state of each repository's main branch when the file was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from inspector.records.checkpoint import StoredCheckpoint
from inspector.records.source import CatalogueEntry, Published, ServedFrom, SourceFiles
from inspector.source.bounded_json import read_object

__all__ = ["list_entries", "list_ids", "load_model"]

# The kind of published count that is what the files hold.
_STORED = "hub safetensors total"
_PACKAGE = Path(__file__).resolve().parents[1]
_LOCATIONS = (_PACKAGE / "fixtures" / "models", _PACKAGE.parent / "fixtures" / "models")


def list_ids() -> tuple[str, ...]:
    """Return the Hub ids of the catalogue in alphabetical order."""
    return tuple(sorted(_list_files_by_id()))


def list_entries(filters: Iterable[str] = ()) -> list[CatalogueEntry]:
    """Return the models whose id, other names or model type hold all of these texts, in the order of their ids."""
    wanted = [text.casefold() for text in filters]
    found = []
    for path in _list_files_by_id().values():
        files = read_object(path)
        entry = CatalogueEntry(
            id=files["id"],
            aliases=tuple(files["aliases"]),
            model_type=files["config"]["model_type"],
            published=_read_published(files["published"]),
        )
        named = " ".join((entry.id, *entry.aliases, entry.model_type)).casefold()
        if all(text in named for text in wanted):
            found.append(entry)
    return sorted(found, key=lambda entry: entry.id.casefold())


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
        published=_read_published(published),
    )


def _read_published(fields: Mapping[str, Any]) -> Published:
    """Return the count that somebody else published."""
    return Published(
        parameters=fields["parameters"],
        kind=fields["kind"],
        source=fields["source"],
        explanation=fields.get("explanation"),
    )
