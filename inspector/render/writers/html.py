"""The report as one self-contained HTML fragment for notebooks: tables with inline style, no address loaded.

What the first screen answers and the warnings are open, every section below them folds. Where the report has its run
drawn, the pictures stand in a frame of their own, which neither sees the notebook nor is seen by it. Nothing else needs
a script: where a notebook is not trusted, or a site strips scripts and frames, the tables are what is left.

Colours are those of the page around it (`currentColor`), so that it suits light and dark themes.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from inspector.records.report import Report
from inspector.render.document import Column, Kind, Paragraph, Plot, Row, Section, Table, Tone
from inspector.render.sections import SECTIONS
from inspector.render.sections.report import build_report_document

__all__ = ["list_block_lines", "render_html"]

_CELL = "border:0;padding:1px 10px 1px 0;vertical-align:top;"
_NUMBER = f"{_CELL}text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums;"
_WORDS = f"{_CELL}text-align:left;max-width:48em;white-space:normal;"
_FRAME = "width:100%;height:46em;border:0;margin:8px 0;resize:vertical;overflow:auto;"
_BAR = "height:0.7em;margin-top:0.3em;background:#3b82c4;"
_STYLE_OF_TONE = {
    Tone.PLAIN: "",
    Tone.KEY: "font-weight:bold;",
    Tone.TOTAL: "font-weight:bold;border-top:1px solid currentColor;",
    Tone.WARN: "color:#b45309;",
    Tone.QUIET: "opacity:0.7;",
}


def render_html(report: Report) -> str:
    """Return the report as an HTML fragment."""
    return "\n".join(_list_lines(report))


def _list_lines(report: Report) -> Iterator[str]:
    """Yield the lines of the fragment from headline to versions."""
    document = build_report_document(report, SECTIONS)
    yield '<div class="inspector-report" style="line-height:1.4;">'
    yield f'<div style="font-size:1.25em;font-weight:bold;">{escape(document.title)}</div>'
    yield from (f'<div style="opacity:0.7;">{escape(line)}</div>' for line in document.subtitle)
    for section in document.sections:
        if not section.title:
            yield from list_block_lines(section)
    if report.drawing is not None:
        yield _format_frame(report.drawing)
    style = "border-left:4px solid #d97706;padding-left:8px;margin:4px 0;"
    yield from (f'<div style="{style}">{escape(warning)}</div>' for warning in document.warnings)
    for section in document.sections:
        if section.title:
            yield "<details>"
            yield f'<summary style="font-weight:bold;margin-top:4px;">{escape(section.title)}</summary>'
            yield from list_block_lines(section)
            yield "</details>"
    yield f'<div style="opacity:0.6;font-size:0.85em;margin-top:12px;">{escape(document.footer)}</div>'
    yield "</div>"


def _format_frame(drawing: str) -> str:
    """Return the pictures of a run as a page in a frame: its scripts run there, without rights of the notebook."""
    from inspector.render.page.page import render_drawing

    page = escape(render_drawing(drawing), quote=True)
    return f'<iframe title="Memory over time" sandbox="allow-scripts" style="{_FRAME}" srcdoc="{page}"></iframe>'


def list_block_lines(section: Section) -> Iterator[str]:
    """Yield the blocks of a section as lines of HTML, its title left out; text is escaped."""
    for block in section.blocks:
        if isinstance(block, Paragraph):
            yield f'<div style="{_STYLE_OF_TONE[block.tone]}">{escape(block.text)}</div>'
        elif isinstance(block, Plot):
            from inspector.render.writers.plot import list_plot_text

            yield f'<pre style="line-height:1.1;">{escape(chr(10).join(list_plot_text(block)))}</pre>'
        else:
            yield from _list_table_lines(block)


def _list_table_lines(table: Table) -> Iterator[str]:
    """Yield a table of all columns."""
    yield '<table style="border-collapse:collapse;border:0;margin:4px 0;">'
    if any(column.title for column in table.columns):
        titles = (
            f'<th style="{_choose_style(column)}font-weight:normal;opacity:0.7;">{escape(column.title)}</th>'
            for column in table.columns
        )
        yield f"<tr>{''.join(titles)}</tr>"
    for item in table.rows:
        cells = (_format_cell(item, index, column) for index, column in enumerate(table.columns))
        yield f'<tr style="{_STYLE_OF_TONE[item.tone]}">{"".join(cells)}</tr>'
    yield "</table>"


def _format_cell(item: Row, index: int, column: Column) -> str:
    """Return one cell; a bar is a box as wide as its share."""
    if column.kind is Kind.BAR:
        bar = f'<div style="{_BAR}width:{100 * item.share:.1f}%;"></div>' if item.share else ""
        return f'<td style="{_CELL}width:14em;">{bar}</td>'
    indent = f"padding-left:{1.2 * item.depth:.1f}em;" if item.depth and not index else ""
    return f'<td style="{_choose_style(column)}{indent}">{escape(item.cells[index])}</td>'


def _choose_style(column: Column) -> str:
    """Return the style of the cells of a column."""
    if column.kind is Kind.NUMBER:
        return _NUMBER + ("opacity:0.7;" if column.quiet else "")
    return _WORDS
