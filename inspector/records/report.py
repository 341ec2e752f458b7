"""The report: everything that one inspection found, and how records become plain values for JSON."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inspector.records.checkpoint import CheckpointFacts
from inspector.records.comparison import Compared
from inspector.records.diffusion import Component
from inspector.records.engines.serving import EngineVerdict, Serving
from inspector.records.fit import PlanRow, Search, Verdict
from inspector.records.memory import (
    CacheFacts,
    ContextPoint,
    MemoryPhase,
    Peak,
    RunMemory,
    StaticBytes,
    StaticRecipe,
    Textbook,
)
from inspector.records.model import AdapterFacts, Census, ModelFacts, QuantizationFacts
from inspector.records.notice import Notice
from inspector.records.training_file import RequestSource, TrainingFile

__all__ = [
    "SCHEMA",
    "Report",
    "to_plain",
]

SCHEMA = "inspector/1"

# Computed values that belong to the JSON beside a record's own fields.
_COMPUTED: dict[type, tuple[str, ...]] = {
    Census: ("frozen", "bytes"),
    QuantizationFacts: ("loaded_bytes",),
    StaticRecipe: ("total_bytes",),
    RunMemory: ("total_bytes",),
    Verdict: ("fits", "uncertain_bytes"),
    PlanRow: ("fits",),
    EngineVerdict: ("fits",),
}


# Values that only say where on the tape something was found, or are drawn and not told.
_INTERNAL: dict[type, tuple[str, ...]] = {
    Compared: ("breakdown", "usable_bytes"),
    Peak: ("event_index", "step"),
    RunMemory: ("workload",),
    TrainingFile: ("spelling", "spelled"),
    MemoryPhase: ("step", "end_reserved_bytes", "peak_reserved_bytes"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything one inspection found. Renderers see this and nothing else.

    `components` are the models of a pipeline of diffusers; `parameters` are then those of its denoiser. `memory` is
    what the run takes; in JSON it stands under the name of its workload, such as `training`. `cache` is
    what a generation keeps of its tokens, `context` what it takes with prompts of other lengths. `serving` is what a
    serving engine makes of the model, in the place of a run. `drawing` is the run as notebooks draw it, JSON of the
    schema that docs/reference/page-data.md describes; it is made in notebooks alone and no part of what was found.
    """

    versions: Mapping[str, str]
    source: RequestSource | None = None
    model: ModelFacts
    parameters: Census
    components: Sequence[Component] | None = None
    quantization: QuantizationFacts | None = None
    adapter: AdapterFacts | None = None
    checkpoint: CheckpointFacts | None = None
    static: StaticBytes | None = None
    cache: CacheFacts | None = None
    memory: RunMemory | None = None
    context: Sequence[ContextPoint] | None = None
    serving: Serving | None = None
    textbook: Textbook | None = None
    fit: Sequence[Verdict] | None = None
    search: Search | None = None
    warnings: Sequence[Notice] = ()
    drawing: str | None = field(default=None, compare=False, repr=False)

    @property
    def training(self) -> RunMemory | None:
        """Return what a training step takes, None where something else ran or could not be traced."""
        return self.memory if self.memory is not None and self.memory.workload.name == "training" else None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as the JSON object of schema `inspector/1`: plain values, keys that do not apply absent."""
        fields = to_plain(dataclasses.replace(self, drawing=None))
        if self.memory is not None:
            workload = self.memory.workload
            recipe = fields["memory"]["recipe"]
            fields["memory"]["recipe"] = {key: value for key, value in recipe.items() if key in workload.recipe_fields}
            fields = {workload.report_key if key == "memory" else key: value for key, value in fields.items()}
        return {"schema": SCHEMA, **fields}


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
