"""Tables and sentences -> lines of a given width: which columns fit, where names are cropped, where sentences wrap.

A line is a list of spans, each with the name of a style; `text` gives the styles their colours. Widths are terminal
cells, so wide characters count twice. Numbers are never cut: where even the narrowest view of a table is too wide, its
lines are longer than the width.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len, chop_cells

from inspector.render.document import Column, Kind, Row, Table, Tone
from inspector.render.writers.glyphs import Charset

__all__ = ["INDENT", "Line", "Span", "crop_middle", "lay_out_table", "wrap"]

INDENT = 2
_GAP = 2
_SHORTEST_NAME = 18
_SHORTEST_FIRST_NAME = 18
_SHORTEST_WORDS = 20
_WIDE_WORDS = 40
_LONGEST_WORDS = 96
_LONGEST_FIRST_WORDS = 72
_SHORTEST_BAR = 8
_LONGEST_BAR = 40
_DEEPEST_WORDS = 12
_TREE_INDENT = 2

# Behind these a long word may be broken: paths, lists of names, options.
# A word that belongs to the next one.
_OPEN_END = re.compile(r"(^| )[`(]?(--?[a-z][\w-]*|[+\u2212-]?\d[\d.,]*)$")
_JOINTS = re.compile(r"(?<=[-./_,=:|({])(?=\w)")

STYLE_OF_TONE = {Tone.PLAIN: "plain", Tone.KEY: "key", Tone.TOTAL: "total", Tone.WARN: "warn", Tone.QUIET: "quiet"}


class Span(NamedTuple):
    """A piece of a line in one style."""

    text: str
    style: str


Line = list[Span]


def lay_out_table(table: Table, width: int, charset: Charset) -> Iterator[Line]:
    """Yield the lines of the first view of `table` that fits `width`."""
    views = table.views or _list_views(table.columns)
    fitting = [view for view in views if _fits(table, view, width)]
    chosen = next((view for view in fitting if _fits(table, view, width, with_words=True)), (*fitting, *views)[-1])
    for index, selection in enumerate(chosen):
        if index:
            yield []
        yield from _lay_out_selection(_select(table, selection), width, charset)


def wrap(text: str, width: int, most: int | None = None) -> list[str]:
    """Return `text` on lines of at most `width` cells, broken between words; what is beyond `most` lines is left out.

    What is left ends neither with an option without its value nor with a number without its unit. A word that is longer
    than a line is broken behind a sign that joins its parts and, where it has none, anywhere.
    """
    lines = [""]
    for word in text.split():
        room = width - cell_len(lines[-1]) - 1 if lines[-1] else width
        if cell_len(word) <= room:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
            continue
        if not lines[-1]:
            lines.pop()
        lines += _break_word(word, width)
    if most is None or len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and (cell_len(last) > width - 2 or _OPEN_END.search(last)):
        last = last.rpartition(" ")[0]
    return [*lines[: most - 1], f"{last} …"]


def _break_word(word: str, width: int) -> list[str]:
    """Return a word in pieces of at most `width` cells."""
    pieces = [""]
    for part in _JOINTS.split(word):
        if cell_len(pieces[-1]) + cell_len(part) <= width:
            pieces[-1] += part
            continue
        if not pieces[-1]:
            pieces.pop()
        pieces += chop_cells(part, width)
    return pieces


@functools.lru_cache(maxsize=4096)
def crop_middle(text: str, width: int) -> str:
    """Return `text` in at most `width` cells, its middle replaced by an ellipsis."""
    if cell_len(text) <= width:
        return text
    if width < 3:
        return "…" * min(width, 1)
    head = text[: (width - 1) // 2]
    while cell_len(head) > (width - 1) // 2:
        head = head[:-1]
    tail = text[-(width - 1 - cell_len(head)) :]
    while cell_len(head) + 1 + cell_len(tail) > width:
        tail = tail[1:]
    return f"{head}…{tail}"


# --- one table --------------------------------------------------------------------------------------------------------


def _list_views(columns: Sequence[Column]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return the views of a table that names none: whole, without exact figures that a quiet column repeats, least."""
    whole = tuple(range(len(columns)))
    short = tuple(index for index in whole if not _is_repeated(columns, index))
    least = tuple(index for index in short if not (columns[index].quiet and columns[index].title))
    return ((whole,), (short,), (least,))


def _is_repeated(columns: Sequence[Column], index: int) -> bool:
    """Tell whether the next column is the same figure in a form that is easier to read."""
    beside = columns[index + 1 : index + 2]
    return columns[index].kind is Kind.NUMBER and any(item.quiet and not item.title for item in beside)


def _name_column(columns: Sequence[Column], selection: Sequence[int], index: int) -> Column:
    """Return a column with its title: one that stands alone for the figure that it repeats has the title of that."""
    if index and index - 1 not in selection and _is_repeated(columns, index - 1) and not columns[index].title:
        return dataclasses.replace(columns[index], title=columns[index - 1].title)
    return columns[index]


def _select(table: Table, selection: Sequence[int]) -> Table:
    """Return the table with the selected columns only."""
    rows = tuple(
        Row(cells=tuple(item.cells[index] for index in selection), tone=item.tone, depth=item.depth, share=item.share)
        for item in table.rows
    )
    return Table(columns=tuple(_name_column(table.columns, selection, index) for index in selection), rows=rows)


def _fits(table: Table, view: Sequence[Sequence[int]], width: int, *, with_words: bool = False) -> bool:
    """Tell whether each table of the view fits when its flexible columns are as narrow as is still readable."""
    return all(_find_least_width(_select(table, selection), with_words) <= width for selection in view)


def _find_least_width(table: Table, with_words: bool) -> int:
    """Return the width that the table needs at least; bars and, if need be, words can do without room of their own."""
    naturals = _measure_columns(table)
    kept = [
        min(natural, _find_least_column_width(column, index))
        for index, (column, natural) in enumerate(zip(table.columns, naturals, strict=True))
        if not (index and (column.kind is Kind.BAR or (column.kind is Kind.WORDS and not with_words)))
    ]
    return INDENT + sum(kept) + _GAP * (len(kept) - 1)


def _find_least_column_width(column: Column, index: int) -> int:
    """Return how narrow a column may become and still be readable."""
    if column.kind is Kind.NAME:
        return _SHORTEST_NAME if index else _SHORTEST_FIRST_NAME
    return {Kind.WORDS: _SHORTEST_WORDS, Kind.BAR: _SHORTEST_BAR}.get(column.kind, sys.maxsize)


def _measure_columns(table: Table) -> list[int]:
    """Return the width of the longest cell of each column."""
    widths = []
    for index, column in enumerate(table.columns):
        cells = [cell_len(item.cells[index]) + (0 if index else _TREE_INDENT * item.depth) for item in table.rows]
        widths.append(_LONGEST_BAR if column.kind is Kind.BAR else max([cell_len(column.title), *cells]))
    return widths


def _choose_widths(table: Table, width: int) -> list[int]:
    """Return the width of each column; 0 for words that go below their row and for a bar without room."""
    widths = _measure_columns(table)
    over = INDENT + sum(widths) + _GAP * (len(widths) - 1) - width
    for index in _order_flexible_columns(table.columns):
        least = min(widths[index], _find_least_column_width(table.columns[index], index))
        kept = max(widths[index] - max(over, 0), least)
        over -= widths[index] - kept
        if (over > 0 or _breaks_words(table, index, kept)) and index and table.columns[index].kind is not Kind.NAME:
            over -= kept + _GAP
            kept = 0
        widths[index] = kept
    return [
        min(size, _LONGEST_WORDS if index else _LONGEST_FIRST_WORDS) if column.kind is Kind.WORDS else size
        for index, (column, size) in enumerate(zip(table.columns, widths, strict=True))
    ]


def _breaks_words(table: Table, index: int, size: int) -> bool:
    """Tell whether a narrow column of words would have to break one."""
    if table.columns[index].kind is not Kind.WORDS or not size or size >= _WIDE_WORDS:
        return False
    return any(cell_len(word) > size for item in table.rows for word in item.cells[index].split())


def _order_flexible_columns(columns: Sequence[Column]) -> list[int]:
    """Return the flexible columns in the order in which they give room: bars, words, then names from the last."""
    last_first = list(reversed(range(len(columns))))
    return [index for kind in (Kind.BAR, Kind.WORDS, Kind.NAME) for index in last_first if columns[index].kind is kind]


def _lay_out_selection(table: Table, width: int, charset: Charset) -> Iterator[Line]:
    """Yield the lines of one table: titles, rows, and a rule above a total."""
    widths = _choose_widths(table, width)
    table_width = sum(widths) + _GAP * (sum(1 for size in widths if size) - 1)
    if any(column.title for column in table.columns):
        titles = Row(cells=tuple(column.title for column in table.columns), tone=Tone.QUIET)
        yield from _lay_out_row(titles, table.columns, widths, width, charset)
    for item in table.rows:
        if item.tone is Tone.TOTAL:
            beside = sum(
                size + _GAP
                for index, (size, column) in enumerate(zip(widths, table.columns, strict=True))
                if size and (column.kind is Kind.BAR or (index and column.kind is Kind.WORDS))
            )
            yield [Span(" " * INDENT, "plain"), Span("─" * (table_width - beside), "quiet")]
        yield from _lay_out_row(item, table.columns, widths, width, charset)


def _lay_out_row(
    item: Row, columns: Sequence[Column], widths: Sequence[int], width: int, charset: Charset
) -> Iterator[Line]:
    """Yield the lines of one row: one, or as many as its words need."""
    style = STYLE_OF_TONE[item.tone]
    cells = [
        _lay_out_cell(item, index, column, size, charset)
        for index, (column, size) in enumerate(zip(columns, widths, strict=True))
    ]
    is_empty = not any(text for lines in cells for text in lines)
    for height in range(0 if is_empty and not all(widths) else max(len(lines) for lines in cells)):
        line = [Span(" " * INDENT, "plain")]
        for lines, column, size in zip(cells, columns, widths, strict=True):
            if not size:
                continue
            text = lines[height] if height < len(lines) else ""
            padding = " " * (size - cell_len(text))
            text = padding + text if column.kind is Kind.NUMBER else text + padding
            line.append(Span(text, _choose_style(column, style)))
            line.append(Span(" " * _GAP, "plain"))
        yield _strip_line(line)
    for index, size in enumerate(widths):
        if not size and columns[index].kind is Kind.WORDS and item.cells[index]:
            indent = INDENT + min(widths[0] + _GAP, _DEEPEST_WORDS) + _TREE_INDENT
            for text in wrap(item.cells[index], min(width - indent, _LONGEST_WORDS)):
                yield [Span(" " * indent, "plain"), Span(text, "quiet")]


def _lay_out_cell(item: Row, index: int, column: Column, size: int, charset: Charset) -> list[str]:
    """Return the lines of a cell in at most `size` terminal cells: words wrapped, names cropped."""
    if column.kind is Kind.BAR:
        return [charset.bar(item.share, size)]
    text = item.cells[index]
    if column.kind is Kind.WORDS:
        return wrap(text, size) if size else [""]
    indent = " " * (0 if index else _TREE_INDENT * item.depth)
    return [indent + (crop_middle(text, size - len(indent)) if column.kind is Kind.NAME else text)]


def _choose_style(column: Column, style: str) -> str:
    """Return the style of a cell: that of its row, except for bars and what only repeats another column."""
    if column.kind is Kind.BAR:
        return "bar"
    return "quiet" if column.quiet and style in ("plain", "quiet") else style


def _strip_line(line: Line) -> Line:
    """Return the line without blanks at its end."""
    while line and not line[-1].text.strip():
        line.pop()
    if line:
        line[-1] = line[-1]._replace(text=line[-1].text.rstrip())
    return line
