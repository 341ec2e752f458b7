"""The report: everything that one inspection found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspector.records.checkpoint import CheckpointFacts
from inspector.records.fit import Search, Verdict
from inspector.records.memory import RunMemory, StaticBytes, Textbook
from inspector.records.model import AdapterFacts, Census, ModelFacts, QuantizationFacts
from inspector.records.notice import Notice
from inspector.records.serialize import to_plain
from inspector.records.training_file import RequestSource

__all__ = [
    "SCHEMA",
    "Report",
]

SCHEMA = "inspector/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything one inspection found. Renderers see this and nothing else.

    `memory` is what the run takes; in JSON it stands under the name of its workload, such as `training`.
    """

    versions: Mapping[str, str]
    source: RequestSource | None = None
    model: ModelFacts
    parameters: Census
    quantization: QuantizationFacts | None = None
    adapter: AdapterFacts | None = None
    checkpoint: CheckpointFacts | None = None
    static: StaticBytes | None = None
    memory: RunMemory | None = None
    textbook: Textbook | None = None
    fit: Sequence[Verdict] | None = None
    search: Search | None = None
    warnings: Sequence[Notice] = ()

    @property
    def training(self) -> RunMemory | None:
        """Return what a training step takes, None where something else ran or could not be traced."""
        return self.memory if self.memory is not None and self.memory.workload.name == "training" else None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as the JSON object of schema `inspector/1`: plain values, keys that do not apply absent."""
        fields = to_plain(self)
        if self.memory is not None:
            workload = self.memory.workload
            recipe = fields["memory"]["recipe"]
            fields["memory"]["recipe"] = {key: value for key, value in recipe.items() if key in workload.recipe_fields}
            fields = {workload.name if key == "memory" else key: value for key, value in fields.items()}
        return {"schema": SCHEMA, **fields}
