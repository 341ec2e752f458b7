"""A document as GitHub Markdown: headings, tables, lists. Bars are left out; everything else is what the text says.

Whatever came from outside is escaped for Markdown and HTML at once, so that a name can neither end its table cell nor
start a link, an image, code, mathematics or an element.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TextIO

from inspector.render.document import Column, Document, Kind, Paragraph, Plot, Row, Section, Table, Tone

__all__ = ["escape_markdown", "write_markdown"]

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SPECIAL = re.compile(r"[\\`*\[\]|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# What would start a list, a rule or the underline of a heading at the beginning of a line.
_BLOCK_START = re.compile(r"^(\d+(?=[.)])|(?=[-+=]))([-+=.)])(?=[-=\s]|$)")
_EMPHASISED = (Tone.KEY, Tone.TOTAL)


def write_markdown(document: Document, stream: TextIO) -> None:
    """Write a document to `stream` as GitHub Markdown."""
    lines = [f"# {escape_markdown(document.title)}", ""]
    lines += [f"{escape_markdown(line)}  " for line in document.subtitle]
    for section in document.sections:
        lines += ["", *_list_section_lines(section)]
    if document.warnings:
        lines += ["", "## Warnings", "", "> [!WARNING]"]
        lines += [f"> - {escape_markdown(warning)}" for warning in document.warnings]
    lines += ["", f"<sub>{escape_markdown(document.footer)}</sub>"] if document.footer else []
    lines.append("")
    stream.write("\n".join(lines))


def escape_markdown(text: str) -> str:
    """Return text of one line so that Markdown and HTML show it as it is."""
    text = _SPECIAL.sub(lambda match: f"\\{match.group()}", text)
    text = "".join(_ENTITIES.get(character, character) for character in text)
    return _BLOCK_START.sub(r"\1\\\2", text)


def _list_section_lines(section: Section) -> Iterator[str]:
    """Yield the heading of a section and its blocks, a blank line between them."""
    if section.title:
        yield from (f"## {escape_markdown(section.title)}", "")
    for index, block in enumerate(section.blocks):
        if index:
            yield ""
        if isinstance(block, Paragraph):
            yield ("⚠ " if block.tone is Tone.WARN else "") + escape_markdown(block.text)
        elif isinstance(block, Plot):
            from inspector.render.writers.plot import list_plot_text

            yield from ("```text", *list_plot_text(block), "```")
        else:
            yield from _list_table_lines(block)


def _list_table_lines(table: Table) -> Iterator[str]:
    """Yield a table of all columns but bars."""
    columns = [(index, column) for index, column in enumerate(table.columns) if column.kind is not Kind.BAR]
    yield _format_line(escape_markdown(column.title) for _, column in columns)
    yield _format_line("--:" if column.kind is Kind.NUMBER else ":--" for _, column in columns)
    for item in table.rows:
        yield _format_line(_format_cell(item, index, column) for index, column in columns)


def _format_line(cells: Iterator[str]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |"


def _format_cell(item: Row, index: int, column: Column) -> str:
    """Return one cell: bold in answers and totals, marked in warnings, indented by depth."""
    text = escape_markdown(item.cells[index])
    if not text:
        return ""
    if item.tone in _EMPHASISED and (column.kind is not Kind.WORDS or index == 0):
        text = f"**{text}**"
    if item.tone is Tone.WARN and index == 0:
        text = f"⚠ {text}"
    return "&emsp;" * (0 if index else item.depth) + text
