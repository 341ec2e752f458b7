"""Rows as CSV that a spreadsheet opens as what they are: no text of a stranger becomes a formula.

A cell that begins with `=`, `+`, `-`, `@`, a tab or a line end is computed by Excel, LibreOffice and Google Sheets when
they open a file. As OWASP advises, such a text gets an apostrophe before it, which makes it text; numbers stay numbers.

Source: https://owasp.org/www-community/attacks/CSV_Injection
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterable
from typing import TextIO

from inspector.errors import one_line

__all__ = ["Cell", "write_csv"]

Cell = str | bool | int | float | None
_LONGEST_CELL = 4000
# Those of full width are taken for the plain ones.
_BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write_csv(rows: Iterable[Iterable[Cell]], stream: TextIO) -> None:
    """Write a line for each row; None is an empty cell, texts are on one line without control characters."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([_write_cell(cell) for cell in row] for row in rows)


def _write_cell(cell: Cell) -> str | int | float | None:
    """Return what stands in the file for a cell."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if not isinstance(cell, str):
        return cell
    text = one_line(cell, _LONGEST_CELL)
    if not text.startswith(_BEGINS_A_FORMULA):
        return text
    with contextlib.suppress(ValueError):
        float(text)
        return text
    return f"'{text}"
