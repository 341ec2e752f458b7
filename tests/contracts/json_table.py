"""The table of docs/json.md, made from docs/report.schema.json: `python -m tests.contracts.json_table` prints it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["DOCS", "load_schema", "table"]

DOCS = Path(__file__).parents[2] / "docs"


def load_schema() -> dict[str, Any]:
    """Return the published schema."""
    schema = json.loads((DOCS / "report.schema.json").read_text(encoding="utf-8"))
    assert isinstance(schema, dict)
    return schema


def table() -> str:
    """Return a Markdown table with a row for every key, in the order of the schema."""
    rows = ["| key | type | always | meaning |", "| --- | --- | --- | --- |"]
    for path, kind, required, meaning in _rows(load_schema(), ""):
        rows.append(f"| `{path}` | {kind} | {'yes' if required else ''} | {meaning} |")
    return "\n".join(rows) + "\n"


def _rows(schema: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, bool, str]]:
    for key, inner in schema.get("properties", {}).items():
        path = f"{prefix}{key}"
        yield path, _kind(inner), key in schema.get("required", ()), inner["description"]
        below = inner.get("items", inner)
        yield from _rows(below, f"{path}[]." if "items" in inner else f"{path}.")


def _kind(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return ", ".join(f'"{value}"' for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_kind(schema['items'])}"
    values = schema.get("additionalProperties")
    return f"object of {_kind(values)}" if isinstance(values, dict) else str(schema["type"])


if __name__ == "__main__":
    print(table(), end="")
