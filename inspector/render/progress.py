"""What the work is at, on a terminal: stages with the time that they took, and a bar where several are alike.

All of it goes away when the work is over. Stages that share a title (`runtime.stage`) share a line, with a bar for how
many of them are done and, below it, what is being tried now.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from inspector.errors import one_line
from inspector.runtime.stage import Stage

__all__ = ["StageList", "show_stages"]

# Lines of stages that are over; of a comparison of many recipes there would be no end.
_MOST_FINISHED = 8
_START = "starting"
_BAR_WIDTH = 24
_REFRESHES = 8  # a second


class StageList:
    """The stages so far; it draws itself, with the time that has passed by then."""

    def __init__(self, *, is_ascii: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spinner = Spinner("line" if is_ascii else "dots")
        self._finished: list[tuple[str, float]] = []
        self._stage: str = _START
        self._begun = clock()

    def enter(self, stage: str) -> None:
        """Go on to another stage."""
        title = _name(stage)
        if title != _name(self._stage):
            now = self._clock()
            if self._stage != _START:
                self._finished.append((_name(self._stage), now - self._begun))
            self._begun = now
        self._stage = stage

    def __rich__(self) -> RenderableType:
        """Return the lines."""
        lines = Table.grid(padding=(0, 1))
        lines.add_column(width=1)
        lines.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        lines.add_column(width=_BAR_WIDTH if isinstance(self._stage, Stage) else 0, no_wrap=True)
        lines.add_column(justify="right", no_wrap=True)
        for title, seconds in self._finished[-_MOST_FINISHED:]:
            lines.add_row("", Text(title, style="dim"), "", Text(_format_time(seconds), style="dim"))
        bar: RenderableType = ""
        if isinstance(self._stage, Stage):
            bar = ProgressBar(total=max(self._stage.total, 1), completed=self._stage.done, width=_BAR_WIDTH)
        lines.add_row(self._spinner, Text(_name(self._stage)), bar, Text(_format_time(self._clock() - self._begun)))
        lines.expand = True
        if not isinstance(self._stage, Stage):
            return lines
        tried = one_line(self._stage, 400).removeprefix(_name(self._stage)).lstrip(",: ")
        return Group(lines, Text(f"  {tried}", style="dim", no_wrap=True, overflow="ellipsis"))


@contextlib.contextmanager
def show_stages(console: Console) -> Iterator[Callable[[str], None]]:
    """Show on a terminal what the function that this yields is called with, until the block ends."""
    stages = StageList(is_ascii=not (console.encoding or "").lower().startswith("utf"))
    with Live(stages, console=console, refresh_per_second=_REFRESHES, transient=True):
        yield stages.enter


def _name(stage: str) -> str:
    """Return what the line of a stage says."""
    return one_line(stage.heading if isinstance(stage, Stage) else stage, 200)


def _format_time(seconds: float) -> str:
    """Return a time in whole seconds, in minutes where it has some."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"
