"""How commands show what they do and what they found: progress on a terminal, documents as text or Markdown."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from inspector.cli.option_names import name_options
from inspector.errors import one_line

if TYPE_CHECKING:
    from inspector.render.document import Document

__all__ = ["print_error", "render_document", "show_progress"]

# In a file or a pipe the text is the one of a terminal of this width.
_TEXT_WIDTH = 80
_LONGEST_MESSAGE = 1000


def print_error(message: str) -> None:
    """Print one line on standard error, where there is one; settings in backticks become options."""
    if sys.stderr is not None:
        # Names of files and of the Hub may hold anything; terminals obey what they are sent.
        print(f"inspect: {one_line(name_options(message), _LONGEST_MESSAGE)}", file=sys.stderr)


@contextlib.contextmanager
def show_progress(*, shown: bool, color: bool) -> Iterator[Callable[[str], None]]:
    """Show the stages on standard error, with the time that they take, on a terminal only."""
    if not (shown and sys.stderr is not None and sys.stderr.isatty() and _understands_escapes()):
        yield lambda _stage: None
        return
    from rich.console import Console

    from inspector.render.progress import show_stages

    with show_stages(Console(file=sys.stderr, no_color=not color or None)) as enter:
        yield enter


def render_document(document: Document, format_: str, stream: TextIO, *, color: bool) -> None:
    """Write a document as Markdown, or as text as wide as the terminal."""
    if format_ == "markdown":
        from inspector.render.writers.markdown import write_markdown

        write_markdown(document, stream)
    else:
        from inspector.render.writers.text import write_text

        terminal = stream.isatty()
        write_text(
            document,
            width=shutil.get_terminal_size((_TEXT_WIDTH, 24)).columns if terminal else _TEXT_WIDTH,
            color=color and terminal and not os.environ.get("NO_COLOR") and _understands_escapes(),
            stream=stream,
        )


def _understands_escapes() -> bool:
    """Tell whether the terminal at hand obeys escape sequences: a dumb one shows them."""
    return os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
