"""docs/reference/training-files.md, with the tables as they are: `python -m tests.training_files.reference_page`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from inspector.training_files.fields import Field, Framework
from inspector.training_files.recognise import FRAMEWORKS

__all__ = ["PAGE", "make_page"]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "training-files.md"
_TABLES = "## The tables\n"


def make_page() -> str:
    """Return the page: what is written by hand, then the tables."""
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(_TABLES)
    return head + _TABLES + "".join(_build_table(framework) for framework in FRAMEWORKS.values())


def _build_table(framework: Framework) -> str:
    """Return the fields of a framework: those that are modelled, then those that are not."""
    lines = [f"\n### {framework.name}", "", f"As of {framework.newest}."]
    modelled = [item for item in framework.fields if item.becomes is not None]
    lines += ["", "| field | becomes | default |", "| --- | --- | --- |"]
    lines += [f"| {_name(item)} | `{item.becomes}`{_mark(item)} | {_describe_default(item)} |" for item in modelled]
    missed = [item for item in framework.fields if item.becomes is None]
    if missed:
        lines += ["", "| not modelled | real step | why |", "| --- | --- | --- |"]
        lines += [f"| {_name(item)} | {item.effect.direction if item.effect else ''} | {item.why} |" for item in missed]
    return "\n".join(lines) + "\n"


def _name(item: Field) -> str:
    return ", ".join(f"`{name}`" for name in (item.name, *item.aliases))


def _mark(item: Field) -> str:
    """Return what is missing of a field that is modelled in part."""
    return "" if item.effect is None else f" ({item.effect.direction}: {item.why})"


def _describe_default(item: Field) -> str:
    """Return the default, with the versions where it moved."""
    return ", ".join(_list_defaults(item)) or "–"


def _list_defaults(item: Field) -> Iterator[str]:
    for since, value in item.default_since.items():
        text = value if isinstance(value, str) else json.dumps(value)
        yield text if since == "0" else f"{text} since {since}"


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
