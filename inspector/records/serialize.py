"""Records -> plain values for JSON."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from inspector.records.fit import PlanRow, Verdict
from inspector.records.memory import MemoryPhase, Peak, RunMemory, StaticRecipe
from inspector.records.model import Census, QuantizationFacts
from inspector.records.training_file import TrainingFile

__all__ = [
    "to_plain",
]

# Computed values that belong to the JSON beside a record's own fields.
_COMPUTED: dict[type, tuple[str, ...]] = {
    Census: ("frozen", "bytes"),
    QuantizationFacts: ("loaded_bytes",),
    StaticRecipe: ("total_bytes",),
    RunMemory: ("total_bytes",),
    Verdict: ("fits", "uncertain_bytes"),
    PlanRow: ("fits",),
}


# Values that only say where on the tape something was found.
_INTERNAL: dict[type, tuple[str, ...]] = {
    Peak: ("event_index", "step"),
    RunMemory: ("workload",),
    TrainingFile: ("spelling", "spelled"),
    MemoryPhase: ("step", "end_reserved_bytes", "peak_reserved_bytes"),
}


def to_plain(value: Any) -> Any:
    """Turn records, enums, mappings and sequences into dicts, strings and lists, leaving out fields that are None."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value):
        items = [(item.metadata.get("key", item.name), getattr(value, item.name)) for item in dataclasses.fields(value)]
        items += [(name, getattr(value, name)) for name in _COMPUTED.get(type(value), ())]
        internal = _INTERNAL.get(type(value), ())
        return {key: to_plain(item) for key, item in items if item is not None and key not in internal}
    if isinstance(value, Mapping):
        return {str(to_plain(key)): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value
