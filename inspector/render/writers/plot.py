"""A plot -> twenty lines of a given width: stacked layers, the reserved line, the card's limit, phases, the peak.

With colours a cell is divided in eighths, and where two layers meet in it, it shows both. Without, each layer has a
block or, where the stream has none, an ASCII character of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from inspector.render.document import Plot, PlotColumn
from inspector.render.writers.glyphs import Charset
from inspector.render.writers.layout import Line, Span, crop_middle
from inspector.units import format_bytes

__all__ = ["LINES", "lay_out_plot", "list_plot_text"]

LINES = 20
_AXIS = 11
_EIGHTHS = " ▁▂▃▄▅▆▇█"
# One for each layer, from the bottom up; after them the lines of what is reserved and what the card has.
_COLORS = ("blue", "magenta", "cyan", "yellow", "green", "bright_black")
_BLOCKS, _ASCII = "█▓▚▒░·", "#%&=-."
_LIMIT_COLOR = "red"
# A card with more than this many times what is reserved is named, and not drawn: the rest would be flat.
_FARTHEST_LIMIT = 1.5
_MOST_TICKS = 5
# The share of a cell that has to be filled for it to be drawn.
_LEAST, _LEAST_IN_COLOR = 1 / 2, 1 / 16
# Where text has no width of its own.
_TEXT_WIDTH = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class _Glyphs:
    """The characters of a plot."""

    layers: str
    reserved: str
    limit: str
    peak: str
    axis: str
    corner: str
    tick: str
    foot: str


_OF_BLOCKS = _Glyphs(layers=_BLOCKS, reserved="─", limit="╌", peak="▲", axis="│", corner="└", tick="┤", foot="─")
_OF_ASCII = _Glyphs(layers=_ASCII, reserved="_", limit="~", peak="^", axis="|", corner="+", tick="+", foot="-")


def lay_out_plot(plot: Plot, width: int, charset: Charset, *, color: bool = False) -> Iterator[Line]:
    """Yield the lines of a plot, twenty in all; with `color` the names of its styles are rich's."""
    glyphs = _OF_BLOCKS if charset.draws_blocks else _OF_ASCII
    columns = list(_resample(plot.columns, width - _AXIS - 1))
    most = max((max(sum(column.layer_bytes), column.reserved_bytes) for column in columns), default=0)
    limit = plot.limit if plot.limit is not None and plot.limit[1] <= _FARTHEST_LIMIT * most else None
    top = max(most, 0 if limit is None else limit[1], 1)
    in_color = color and charset.draws_blocks
    least = top / (LINES - 6) * (_LEAST_IN_COLOR if in_color else _LEAST)  # what is less is not in the picture
    seen = [max(column.layer_bytes[layer] for column in columns) >= least for layer in range(len(plot.layers))]
    legend = list(_lay_out_legend(plot, seen, glyphs, width, is_drawn=limit is not None, in_color=in_color))
    rows = LINES - 4 - len(legend)
    scale = _Scale(unit=top / rows * 1.0001)
    ticks = dict(_list_ticks(top, scale))
    yield [Span(crop_middle(plot.title, width), "section")]
    for row in reversed(range(rows)):
        label = ticks.get(row, "")
        line = [Span(f"{label:>{_AXIS}}", "quiet"), Span(glyphs.tick if label else glyphs.axis, "quiet")]
        cells = (_draw_cell(column, row, scale, limit, glyphs, in_color=in_color) for column in columns)
        yield line + _join(cells)
    place = _find_place(plot.peak, len(plot.columns), len(columns))
    foot = glyphs.foot * place, glyphs.peak, glyphs.foot * (len(columns) - place - 1)
    yield [
        Span(" " * _AXIS + glyphs.corner + foot[0], "quiet"),
        Span(foot[1], "key"),
        Span(foot[2], "quiet"),
    ]
    yield [Span(" " * (_AXIS + 1) + _place_phases(plot, len(columns)), "quiet")]
    yield from legend
    yield [Span(f"{glyphs.peak} ", "key"), Span(crop_middle(plot.peak_words, width - 2), "plain")]


def list_plot_text(plot: Plot) -> Iterator[str]:
    """Yield the lines of a plot as they are printed without a terminal."""
    for line in lay_out_plot(plot, _TEXT_WIDTH, Charset(None)):
        yield "".join(span.text for span in line).rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """How many bytes a row is high."""

    unit: float

    def find_row(self, size_bytes: int) -> int:
        """Return the row that a size is in."""
        return int(size_bytes / self.unit)


def _find_place(column: int, of: int, into: int) -> int:
    """Return where a column of so many is among fewer or more of them."""
    return min(column * into // max(of, 1), into - 1)


def _resample(columns: Sequence[PlotColumn], count: int) -> Iterator[PlotColumn]:
    """Yield so many columns: of those that come together the largest, with the most that is reserved in any of them."""
    for index in range(count):
        first = index * len(columns) // count
        last = max(first + 1, (index + 1) * len(columns) // count)
        part = columns[first:last]
        largest = max(part, key=lambda column: sum(column.layer_bytes))
        reserved = max(column.reserved_bytes for column in part)
        yield PlotColumn(layer_bytes=largest.layer_bytes, reserved_bytes=reserved)


def _list_ticks(top: int, scale: _Scale) -> Iterator[tuple[int, str]]:
    """Yield rows with the sizes that they begin at: a power of two and its multiples."""
    step = 1
    while top / step > _MOST_TICKS:
        step *= 2
    for size in range(0, top + 1, step):
        yield scale.find_row(size), format_bytes(size).replace(".00", "") if size else "0"


def _draw_cell(
    column: PlotColumn, row: int, scale: _Scale, limit: tuple[str, int] | None, glyphs: _Glyphs, *, in_color: bool
) -> Span:
    """Return one cell: what lives at its height, else a line that goes through it."""
    foot, head = row * scale.unit, (row + 1) * scale.unit
    parts: list[tuple[int, float]] = []  # layers in the cell from the bottom up, with the share that they fill
    below = 0
    for layer, size in enumerate(column.layer_bytes):
        share = (min(below + size, head) - max(below, foot)) / scale.unit
        below += size
        if share > 0:
            parts.append((layer, share))
    filled = sum(share for _, share in parts)
    if limit is not None and scale.find_row(limit[1]) == row:
        ground = f" on {_COLORS[max(parts, key=lambda part: part[1])[0]]}" if filled >= _LEAST else ""
        return Span(glyphs.limit, f"{_LIMIT_COLOR}{ground}" if in_color else "plain")
    if filled >= (_LEAST_IN_COLOR if in_color else _LEAST):
        return _draw_layers(parts, glyphs) if in_color else _draw_layer(parts, glyphs)
    if scale.find_row(column.reserved_bytes) == row:
        return Span(glyphs.reserved, "plain")
    return Span(" ", "plain")


def _draw_layer(parts: Sequence[tuple[int, float]], glyphs: _Glyphs) -> Span:
    """Return a cell of the layer that fills most of it."""
    layer, _ = max(parts, key=lambda part: part[1])
    return Span(glyphs.layers[layer], "plain")


def _draw_layers(parts: Sequence[tuple[int, float]], glyphs: _Glyphs) -> Span:
    """Return a cell of the two layers that fill most of it or, where it is not full, of the one below what is empty."""
    largest = sorted(parts, key=lambda part: -part[1])[:2]
    filled = round(8 * sum(share for _, share in parts))
    if filled < 8 or len(largest) == 1:
        return Span(_EIGHTHS[max(filled, 1)], _COLORS[largest[0][0]])
    (lower, share), (upper, rest) = sorted(largest)
    eighths = min(max(round(8 * share / (share + rest)), 1), 7)
    return Span(_EIGHTHS[eighths], f"{_COLORS[lower]} on {_COLORS[upper]}")


def _join(cells: Iterator[Span]) -> Line:
    """Return cells as spans of one style each."""
    line: Line = []
    for cell in cells:
        if line and line[-1].style == cell.style:
            line[-1] = Span(line[-1].text + cell.text, cell.style)
        else:
            line.append(cell)
    return line


def _place_phases(plot: Plot, count: int) -> str:
    """Return the names of the phases, each below the middle of its own; one that is too short for its name has none."""
    text = [" "] * count
    starts = [_find_place(column, len(plot.columns), count) for _, column in plot.phases]
    for (name, _), begin, end in zip(plot.phases, starts, [*starts[1:], count], strict=True):
        if len(name) <= end - begin:
            place = begin + (end - begin - len(name)) // 2
            text[place : place + len(name)] = name
    return "".join(text).rstrip()


def _lay_out_legend(
    plot: Plot, seen: Sequence[bool], glyphs: _Glyphs, width: int, *, is_drawn: bool, in_color: bool
) -> Iterator[Line]:
    """Yield what the characters mean, of layers those that are seen, on as many lines as it takes."""
    items: list[tuple[Span, str]] = []
    for layer, name in enumerate(plot.layers):
        if seen[layer]:
            mark = Span("█", _COLORS[layer]) if in_color else Span(glyphs.layers[layer], "plain")
            items.append((mark, name))
    items.append((Span(glyphs.reserved, "plain"), "reserved"))
    if plot.limit is not None:
        gpu, size = plot.limit
        words = f"{gpu} has {format_bytes(size)}" + ("" if is_drawn else ", above the picture")
        items.append((Span(glyphs.limit, _LIMIT_COLOR if in_color else "plain"), words))
    line: Line = []
    used = 0
    for mark, words in items:
        words = crop_middle(words, width - 2)
        if line and used + 4 + cell_len(words) > width:
            yield line
            line, used = [], 0
        gap = "  " if line else ""
        line += [Span(gap, "plain"), mark, Span(f" {words}", "quiet")]
        used += len(gap) + 2 + cell_len(words)
    yield line
