"""Files of other libraries and formats, by what they look like: what they are, and what to name in their place.

Each entry says how its files are known. Whoever names such a folder or repository meant a model, and would otherwise
read that some field or file is absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from inspector.errors import UnsupportedModelError, UsageError, one_line, quoted
from inspector.records.source import SourceFiles

__all__ = ["describe_foreign_files", "refuse_foreign"]


def describe_foreign_files(names: Sequence[str]) -> str | None:
    """Return what files without a config.json are of, with what to do, or None where that is not known."""
    if "params.json" in names and any(name.startswith("consolidated") for name in names):
        return (
            "is in Mistral's own format (params.json, consolidated weights), which transformers does not read; name "
            "the repository of the same model with a config.json."
        )
    return None


def refuse_foreign(files: SourceFiles) -> None:
    """Raise where a config.json is of another library, or no configuration at all but something that was saved here."""
    config = files.config
    if files.pipeline is not None:
        return
    schema = config.get("schema")
    if isinstance(schema, str) and schema.startswith("inspector"):
        raise UsageError(_explain_saved(files.id, schema, config))
    if config.get("model_type") == "model2vec":
        raise UnsupportedModelError(
            f"{quoted(files.id)} holds static embeddings of model2vec, a table without a model; name the model that "
            "they were distilled from."
        )
    if "model_type" in config or "architectures" in config:
        return
    if "_diffusers_version" in config:
        name = one_line(config.get("_class_name", "a part of a pipeline"), 60)
        raise UnsupportedModelError(
            f"{quoted(files.id)} is of diffusers ({name}), no model of transformers; of its pipeline, name the folder "
            "of a text encoder, which is one."
        )


def _explain_saved(name: str, schema: str, fields: Mapping[str, Any]) -> str:
    """Say what a file is that another command wrote, and what it is for."""
    kind = re.sub(r"^inspector-?|/.*$", "", schema) or "report"
    model = fields.get("model")
    meant = model.get("id") if isinstance(model, Mapping) else model
    again = f", or name its model {quoted(meant, 100)}" if isinstance(meant, str) else ""
    what = f"{quoted(name)} is a saved {one_line(kind, 30)} (schema {one_line(schema, 40)}), not a model"
    if kind == "report":
        return f"{what}; give it to inspect compare, beside another report or a model{again}."
    return f"{what}; read it as the JSON that it is{again}."
