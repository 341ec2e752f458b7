"""A row of the matrix: a model of the catalogue or a configuration of its own, and options of the command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inspector.source import catalogue

__all__ = ["MatrixRow", "cut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """One row: a model of the catalogue, how many layers of it (None: all), and options of the command.

    `stored` is the quantization_config that its checkpoint declares. `fields` is what its configuration says otherwise,
    in its text part where it has one: all of it for a model that the catalogue does not have. `answers` are what the
    stand-in for a GPU says where a kernel would have computed it (tests/evidence/stand_in/README.md).
    """

    name: str
    model: str
    layers: int | None = None
    options: str = ""
    stored: Mapping[str, Any] | None = None
    fields: Mapping[str, Any] | None = None
    answers: Mapping[str, str] | None = None

    @property
    def is_changed(self) -> bool:
        """Tell whether its configuration is not that of the catalogue."""
        return self.layers is not None or self.fields is not None

    @property
    def generates(self) -> bool:
        """Tell whether it is a generation."""
        return "--generate" in self.options.split()


def cut(
    model: str, layers: int | None, stored: Mapping[str, Any] | None = None, fields: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the configuration of a catalogue model with its first layers alone, `stored` in quantized form.

    `fields` go before those of the catalogue, which need not have the model.
    """
    files = catalogue.load_model(model)
    assert files is not None or fields is not None, model
    config: dict[str, Any] = json.loads(json.dumps(dict(files.config if files is not None else {})))
    inner = next((config[key] for key in ("text_config", "llm_config") if key in config), config)
    inner.update(json.loads(json.dumps(dict(fields or {}))))
    for key in ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers"):
        if layers is not None and (key in inner or key == "num_hidden_layers"):
            inner[key] = layers
    if isinstance(inner.get("layer_types"), list) and layers is not None:
        inner["layer_types"] = inner["layer_types"][:layers]
    return config if stored is None else {**config, "quantization_config": dict(stored)}
