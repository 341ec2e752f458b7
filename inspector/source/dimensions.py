"""What a configuration says of a model at a glance, before anything is built: for whoever waits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from inspector.errors import one_line
from inspector.records.source import ServedFrom, SourceFiles

__all__ = ["describe_files"]

_FROM = {
    ServedFrom.HUB: "from the Hub",
    ServedFrom.CACHE: "from the Hugging Face cache",
    ServedFrom.LOCAL: "from this machine",
    ServedFrom.BUNDLED: "from the bundled catalogue",
}
# What a dimension is called here, and by the configurations of transformers.
_DIMENSIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("{} layers", ("num_hidden_layers", "n_layer", "num_layers", "n_layers")),
    ("hidden size {}", ("hidden_size", "n_embd", "d_model", "dim")),
    ("{} experts", ("num_local_experts", "n_routed_experts", "num_experts")),
    ("vocabulary {}", ("vocab_size",)),
)
_PARTS = ("text_config", "language_config", "llm_config", "thinker_config")


def describe_files(files: SourceFiles) -> str:
    """Return a line on a model: its name, where its configuration is from, its type and its dimensions."""
    words = [f"{one_line(files.id, 80)} {_FROM[files.served_from]}"]
    kind = files.config.get("model_type")
    if isinstance(kind, str):
        words.append(one_line(kind, 40))
    words += _list_dimensions(files.config)
    if files.adapter_id is not None:
        words.append(f"with the adapter {one_line(files.adapter_id, 80)}")
    return ", ".join(words)


def _list_dimensions(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the configuration, or its text part, says of sizes."""
    parts = [config, *(part for name in _PARTS if isinstance(part := config.get(name), Mapping))]
    for words, names in _DIMENSIONS:
        values = (part[name] for part in parts for name in names if type(part.get(name)) is int)
        value = next((value for value in values if value > 0), None)
        if value is not None:
            yield words.format(f"{value:,}")
