"""What a report looks like before anybody decided how wide it is: titled sections of tables and sentences.

`sections.report` turns a Report into a Document; the text, Markdown and HTML renderers lay the same Document out. Every
string in it went through `errors.one_line`, so no renderer meets a line break, a control character or a direction
override; the escaping that a format needs (Markdown, HTML) is the renderer's own.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from inspector.errors import one_line

__all__ = [
    "Block",
    "Column",
    "Document",
    "Kind",
    "Paragraph",
    "Plot",
    "PlotColumn",
    "Row",
    "Section",
    "Table",
    "Tone",
    "column",
    "paragraph",
    "row",
]

_LONGEST_CELL = 4000


class Kind(enum.Enum):
    """How the cells of a column behave when room is short.

    NAME: cropped in the middle, where paths differ least.
    LABEL: our own words, left whole.
    WORDS: wrapped between words; only as the first or the last column of a table.
    NUMBER: aligned to the right and never cut.
    BAR: drawn from the row's `share`, as long as room allows; its cells are empty.
    """

    NAME = "name"
    LABEL = "label"
    WORDS = "words"
    NUMBER = "number"
    BAR = "bar"


class Tone(enum.Enum):
    """How loud a row or a sentence is.

    PLAIN: one of many.
    KEY: an answer that the reader came for.
    TOTAL: the sum of the rows above it.
    WARN: something to act on.
    QUIET: where a figure comes from, what was left out of a list.
    """

    PLAIN = "plain"
    KEY = "key"
    TOTAL = "total"
    WARN = "warn"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table. A quiet one repeats another column in a form that is easier to read."""

    title: str
    kind: Kind
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: a string for each column. `depth` indents the first cell, `share` (0 to 1) is the length of its bar."""

    cells: tuple[str, ...]
    tone: Tone = Tone.PLAIN
    depth: int = 0
    share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under columns.

    `views` are its layouts, the widest first. A view is one or more selections of column numbers, each printed as
    a table of its own; empty means all columns. A layout of limited width takes the first view that fits.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    views: tuple[tuple[tuple[int, ...], ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """A sentence or two; `most_lines` is how many lines of it are shown where a line has an end."""

    text: str
    tone: Tone = Tone.PLAIN
    most_lines: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotColumn:
    """The largest moment of a stretch of a run: what each layer of the plot holds then, and the most reserved in it."""

    layer_bytes: tuple[int, ...]
    reserved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Memory over a run, to be drawn in any width: stacked layers, and lines for what is reserved and what a card has.

    `layers` are named from the bottom up. `phases` are their names with the column that each begins at. `peak` is the
    column of the peak, `peak_words` what is at work then. `limit` is what a card has, with its name.
    """

    title: str
    layers: tuple[str, ...]
    columns: tuple[PlotColumn, ...]
    phases: tuple[tuple[str, int], ...]
    peak: int
    peak_words: str
    limit: tuple[str, int] | None = None


Block = Table | Paragraph | Plot


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A titled part; those with the answer, which come first, have no title."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The whole report: what it is about, its sections, what to beware of, and what it was made with."""

    title: str
    subtitle: tuple[str, ...]
    sections: tuple[Section, ...]
    warnings: tuple[str, ...]
    footer: str


def column(title: str, kind: Kind, *, quiet: bool = False) -> Column:
    """Return a column with a clean title."""
    return Column(title=one_line(title), kind=kind, quiet=quiet)


def row(cells: Iterable[object], *, tone: Tone = Tone.PLAIN, depth: int = 0, share: float = 0.0) -> Row:
    """Return a row of clean cells."""
    return Row(cells=tuple(one_line(cell, _LONGEST_CELL) for cell in cells), tone=tone, depth=depth, share=share)


def paragraph(text: object, tone: Tone = Tone.PLAIN, *, most_lines: int | None = None) -> Paragraph:
    """Return a paragraph of clean text."""
    return Paragraph(text=one_line(text, _LONGEST_CELL), tone=tone, most_lines=most_lines)
