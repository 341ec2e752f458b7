"""The adapters that X-LoRA mixes -> their configurations: of each only adapter_config.json is read, never its weights.

An X-LoRA adapter that was saved has its adapters beside it, in folders of their names; whatever its configuration says,
PEFT takes these (tuners/xlora/config.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inspector.errors import ModelUnavailableError, UsageError, quoted
from inspector.records.source import SourceFiles
from inspector.runtime.confinement import takes_local_paths
from inspector.source.locate import locate_adapter

__all__ = ["add_mixed_adapters"]

_METHOD = "XLORA"
# Each is a request to the Hub.
_MOST_ADAPTERS = 64


def add_mixed_adapters(files: SourceFiles, peft: Any, *, offline: bool, progress: Callable[[str], None]) -> SourceFiles:
    """Add the configurations of the adapters that an adapter mixes: that of the files, or the one that was asked for.

    Raises ModelUnavailableError where one cannot be had, UsageError where it is a model.
    """
    stored = files.adapter_config
    adapters = _list_adapters(peft if stored is None else stored)
    if not adapters:
        return files
    if len(adapters) > _MOST_ADAPTERS:
        raise UsageError(f"adapters names {len(adapters):,} adapters, more than {_MOST_ADAPTERS}; name fewer.")
    folder = None if stored is None else _find_folder(files.adapter_id)
    found: dict[str, Mapping[str, Any]] = {}
    for name, where in adapters.items():
        if not isinstance(where, str):
            continue  # the configuration itself
        beside = None if folder is None else folder / str(name)
        path = str(beside) if beside is not None and beside.is_dir() else where
        try:
            fields = locate_adapter(path, offline=offline, progress=progress)
        except ModelUnavailableError as error:
            raise ModelUnavailableError(
                f"Adapter {quoted(name, 60)} of those that XLORA mixes: {error} Or write its configuration in its "
                'place, such as {"peft_type": "LORA", "r": 8}.'
            ) from error
        if fields is None:
            raise UsageError(
                f"{quoted(path)}, adapter {quoted(name, 60)} of those that XLORA mixes, is a model; name an adapter."
            )
        found[str(name)] = fields
    return dataclasses.replace(files, mixed_adapters=found)


def _find_folder(adapter: str | None) -> Path | None:
    """Return the folder of an adapter on this machine, None for one of the Hub."""
    path = Path(adapter or "")
    if adapter is None or not takes_local_paths() or not path.exists():
        return None
    return path if path.is_dir() else path.parent


def _list_adapters(peft: Any) -> Mapping[Any, Any]:
    """Return the adapters that a configuration of PEFT mixes by their names, none of another method."""
    fields = peft if isinstance(peft, Mapping) else vars(peft) if hasattr(peft, "peft_type") else {}
    method = fields.get("peft_type")
    adapters = fields.get("adapters") if getattr(method, "value", method) == _METHOD else None
    return adapters if isinstance(adapters, Mapping) else {}
