"""A document as GitHub Markdown: headings, tables, lists. Bars are left out; everything else is what the text says.

Whatever came from outside is escaped for Markdown and HTML at once, so that a name can neither end its table cell nor
start a link, an image, code, mathematics or an element.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TextIO

from inspector.render.document import Column, Document, Kind, Paragraph, Row, Section, Table, Tone

__all__ = ["escaped", "write_markdown"]

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SPECIAL = re.compile(r"[\\`*\[\]|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# What would start a list, a rule or the underline of a heading at the beginning of a line.
_BLOCK_START = re.compile(r"^(\d+(?=[.)])|(?=[-+=]))([-+=.)])(?=[-=\s]|$)")
_EMPHASISED = (Tone.KEY, Tone.TOTAL)


def write_markdown(shown: Document, stream: TextIO) -> None:
    """Write a document to `stream` as GitHub Markdown."""
    lines = [f"# {escaped(shown.title)}", ""]
    lines += [f"{escaped(line)}  " for line in shown.subtitle]
    for section in shown.sections:
        lines += ["", *_section_lines(section)]
    if shown.warnings:
        lines += ["", "## Warnings", "", "> [!WARNING]"]
        lines += [f"> - {escaped(warning)}" for warning in shown.warnings]
    lines += ["", f"<sub>{escaped(shown.footer)}</sub>", ""]
    stream.write("\n".join(lines))


def escaped(text: str) -> str:
    """Return text of one line so that Markdown and HTML show it as it is."""
    text = _SPECIAL.sub(lambda match: f"\\{match.group()}", text)
    text = "".join(_ENTITIES.get(character, character) for character in text)
    return _BLOCK_START.sub(r"\1\\\2", text)


def _section_lines(section: Section) -> Iterator[str]:
    """Yield the heading of a section and its blocks, a blank line between them."""
    if section.title:
        yield from (f"## {escaped(section.title)}", "")
    for index, block in enumerate(section.blocks):
        if index:
            yield ""
        if isinstance(block, Paragraph):
            yield escaped(block.text)
        else:
            yield from _table_lines(block)


def _table_lines(table: Table) -> Iterator[str]:
    """Yield a table of all columns but bars."""
    columns = [(index, column) for index, column in enumerate(table.columns) if column.kind is not Kind.BAR]
    yield _line(escaped(column.title) for _, column in columns)
    yield _line("--:" if column.kind is Kind.NUMBER else ":--" for _, column in columns)
    for item in table.rows:
        yield _line(_cell(item, index, column) for index, column in columns)


def _line(cells: Iterator[str]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |"


def _cell(item: Row, index: int, column: Column) -> str:
    """Return one cell: bold in answers and totals, marked in warnings, indented by depth."""
    text = escaped(item.cells[index])
    if not text:
        return ""
    if item.tone in _EMPHASISED and (column.kind is not Kind.WORDS or index == 0):
        text = f"**{text}**"
    if item.tone is Tone.WARN and index == 0:
        text = f"⚠ {text}"
    return "&emsp;" * (0 if index else item.depth) + text
