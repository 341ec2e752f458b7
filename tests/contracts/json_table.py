"""The tables of docs/reference/json.md, made from the schemas.

`python -m tests.contracts.json_table plan` prints one of them.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["DOCS", "closed", "load_schema", "table"]

DOCS = Path(__file__).parents[2] / "docs" / "reference"


def load_schema(name: str = "report") -> dict[str, Any]:
    """Return a published schema."""
    schema = json.loads((DOCS / f"{name}.schema.json").read_text(encoding="utf-8"))
    assert isinstance(schema, dict)
    return schema


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema so that a key it does not describe is an error: readers must allow more, writers must not."""
    strict = copy.deepcopy(schema)
    stack = [strict]
    while stack:
        inner = stack.pop()
        if "properties" in inner and "peft_type" not in inner["properties"]:
            inner["additionalProperties"] = False
        stack += list(inner.get("properties", {}).values())
        stack += [inner["items"]] if "items" in inner else []
    return strict


def table(name: str = "report") -> str:
    """Return a Markdown table with a row for every key, in the order of the schema."""
    rows = ["| key | type | always | meaning |", "| --- | --- | --- | --- |"]
    for path, kind, required, meaning in _rows(load_schema(name), ""):
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
    if "type" not in schema:
        return "any"
    if schema["type"] == "array":
        return f"list of {_kind(schema['items'])}"
    values = schema.get("additionalProperties")
    return f"object of {_kind(values)}" if isinstance(values, dict) else str(schema["type"])


if __name__ == "__main__":
    print(table(*sys.argv[1:]), end="")
