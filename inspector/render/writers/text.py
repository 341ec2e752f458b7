"""A document for a terminal: rich draws the styles, `layout` has decided every line before.

Colours are the terminal's own sixteen, so that they suit its theme. Without colour no escape sequence is written at
all; weight and colour never carry a fact that the words do not. Text from outside is never read as rich's markup.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

from inspector.render.document import Block, Document, Paragraph, Plot, Section, Table, Tone
from inspector.render.writers.glyphs import Charset

if TYPE_CHECKING:
    from inspector.render.writers.layout import Line

__all__ = ["list_lines", "write_text"]

_STYLES = {
    "plain": "",
    "title": "bold cyan",
    "section": "bold cyan",
    "key": "bold",
    "total": "bold",
    "quiet": "dim",
    "bar": "cyan",
    "warn": "yellow",
    "mark": "bold yellow",
}
_NARROWEST = 40
_LONGEST_SENTENCE = 110


def write_text(document: Document, *, width: int, color: bool, stream: TextIO) -> None:
    """Write a document to `stream` for a terminal of `width` columns, with escape sequences only if `color`."""
    # Imported here: the command's other formats have no use for rich.
    from rich.console import Console
    from rich.text import Text

    class Output(Console):
        """A console that leaves it to the command what a closed pipe means; rich itself would exit with 1."""

        def on_broken_pipe(self) -> None:
            """Pass on the BrokenPipeError at hand."""
            raise  # rich calls this while it handles that error

    console = Output(
        file=stream,
        width=max(width, _NARROWEST),
        height=25,  # with both given, rich asks neither the environment nor the terminal
        color_system="standard" if color else None,
        force_terminal=color,
        no_color=not color,
        force_jupyter=False,
        legacy_windows=None if color else False,
    )
    charset = Charset(getattr(stream, "encoding", None))
    for line in list_lines(_replace_characters(document, charset), max(width, _NARROWEST), charset, color=color):
        # What is not one of ours is a colour of a plot.
        text = Text.assemble(*((charset.fit(span.text), _STYLES.get(span.style, span.style)) for span in line))
        console.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)


def _replace_characters(document: Document, charset: Charset) -> Document:
    """Return the document in the characters of the stream."""
    return replace(
        document,
        title=charset.fit(document.title),
        subtitle=tuple(charset.fit(line) for line in document.subtitle),
        sections=tuple(_replace_in_section(section, charset) for section in document.sections),
        warnings=tuple(charset.fit(warning) for warning in document.warnings),
        footer=charset.fit(document.footer),
    )


def _replace_in_section(section: Section, charset: Charset) -> Section:
    """Return a section in the characters of the stream."""
    blocks: list[Block] = []
    for block in section.blocks:
        if isinstance(block, Paragraph):
            blocks.append(replace(block, text=charset.fit(block.text)))
            continue
        if isinstance(block, Plot):
            blocks.append(block)
            continue
        columns = tuple(replace(column, title=charset.fit(column.title)) for column in block.columns)
        rows = tuple(replace(item, cells=tuple(charset.fit(cell) for cell in item.cells)) for item in block.rows)
        blocks.append(replace(block, columns=columns, rows=rows))
    return replace(section, title=charset.fit(section.title), blocks=tuple(blocks))


def list_lines(document: Document, width: int, charset: Charset, *, color: bool = False) -> Iterator[Line]:
    """Yield the lines of a document from headline to footer, as they are written for `width` columns."""
    from inspector.render.writers.layout import Span, crop_middle, wrap

    yield [Span(crop_middle(document.title, width), "title")]
    for line in document.subtitle:
        yield from ([Span(text, "quiet")] for text in wrap(line, min(width, _LONGEST_SENTENCE)))
    if document.warnings:
        count = len(document.warnings)
        yield [Span("! ", "mark"), Span(f"{count} warning{'s' if count > 1 else ''} at the end", "warn")]
    for section in document.sections:
        yield []
        yield from _list_section_lines(section, width, charset, color=color)
    if document.warnings:
        yield []
        yield [Span("Warnings", "mark")]
    for warning in document.warnings:
        for index, text in enumerate(wrap(warning, min(width, _LONGEST_SENTENCE) - 2)):
            yield [Span("  " if index else "! ", "mark"), Span(text, "warn")]
    if document.footer:
        yield []
        yield from ([Span(text, "quiet")] for text in wrap(document.footer, min(width, _LONGEST_SENTENCE)))


def _list_section_lines(section: Section, width: int, charset: Charset, *, color: bool) -> Iterator[Line]:
    """Yield the title of a section and its blocks, a blank line between them."""
    from inspector.render.writers.layout import INDENT, STYLE_OF_TONE, Span, lay_out_table, wrap

    if section.title:
        yield [Span(section.title, "section")]
    for index, block in enumerate(section.blocks):
        if index and isinstance(block, Table):
            yield []
        if isinstance(block, Table):
            yield from lay_out_table(block, width, charset)
            continue
        if isinstance(block, Plot):
            from inspector.render.writers.plot import lay_out_plot

            yield from lay_out_plot(block, width, charset, color=color)
            continue
        for count, text in enumerate(wrap(block.text, min(width, _LONGEST_SENTENCE) - INDENT, block.most_lines)):
            marked = block.tone is Tone.WARN and not count
            yield [Span("! ", "mark") if marked else Span(" " * INDENT, "plain"), Span(text, STYLE_OF_TONE[block.tone])]
