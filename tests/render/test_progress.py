"""What a terminal shows while the work goes on: stages with their times, a bar where several are alike."""

from __future__ import annotations

import io
import pickle

from rich.console import Console

from inspector.planning.compare import prefix_stages
from inspector.render.progress import StageList, show_stages
from inspector.runtime.stage import Stage


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def draw(stages: StageList, width: int = 70) -> list[str]:
    """Return the lines of the stages so far."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=True)
    with console.capture() as captured:
        console.print(stages)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_stages_that_are_over_stay_with_the_time_that_they_took() -> None:
    clock = Clock()
    stages = StageList(clock=clock)
    stages.enter("reading the configuration")
    clock.now = 2.5
    stages.enter("loading transformers and PEFT")
    clock.now = 67.5
    first, second = draw(stages)
    assert first.split() == ["reading", "the", "configuration", "2", "s"]
    assert second.split()[1:] == ["loading", "transformers", "and", "PEFT", "1:05", "min"]


def test_stages_that_are_alike_share_a_line_with_a_bar_and_say_what_is_tried() -> None:
    """Its time is that of all of them; the line below has the words without what the line above says."""
    clock = Clock()
    stages = StageList(clock=clock)
    heading = "searching the largest batch-size"
    for done in (0, 1, 2):
        stages.enter(Stage(f"trace {done + 1}: batch-size {2**done}", heading=heading, done=done, total=4))
        clock.now += 4
    line, tried = draw(stages)
    assert "searching the largest batch-size" in line
    assert "━" * 12 in line
    assert line.endswith("12 s")
    assert tried == "  trace 3: batch-size 4"
    stages.enter(Stage("what fits, trace 1: --dora", heading="what fits", done=0, total=8))
    assert draw(stages)[-1] == "  trace 1: --dora"


def test_what_is_tried_takes_one_line_in_any_width() -> None:
    stages = StageList(clock=Clock())
    stages.enter(Stage("x" * 500, heading="y" * 300, done=1, total=2))
    lines = draw(stages, 50)
    assert len(lines) == 2
    assert max(map(len, lines)) <= 50


def test_a_terminal_that_lacks_the_signs_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    with show_stages(Console(file=stream, force_terminal=True, width=60, color_system=None)) as enter:
        enter(Stage("a", heading="b", done=1, total=2))
    stream.flush()
    assert b"b" in raw.getvalue()


def test_a_stage_is_text_for_whoever_shows_text_and_travels_between_processes() -> None:
    stage = Stage("recipe 3 of 24", heading="recipes", done=2, total=24)
    assert f"{stage}!" == "recipe 3 of 24!"
    copied = pickle.loads(pickle.dumps(stage))
    assert (copied, copied.heading, copied.done, copied.total) == ("recipe 3 of 24", "recipes", 2, 24)
    told: list[str] = []
    prefix_stages(told.append, "recipe 1 of 2")(stage)
    (behind,) = told
    assert isinstance(behind, Stage)
    assert (behind, behind.heading) == ("recipe 1 of 2: recipe 3 of 24", "recipe 1 of 2: recipes")
