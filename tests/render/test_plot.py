"""The plot of a run in text: its peak at any width, its lines, and ASCII where a stream has no blocks."""

from __future__ import annotations

import dataclasses
import io

import pytest

from inspector.memory.allocator.settings import MIB
from inspector.memory.recording import Recording
from inspector.records.fit import Fit, Verdict
from inspector.records.report import Report
from inspector.records.tape import Category, Phase
from inspector.render.document import Document, Plot, Section
from inspector.render.timeline import build_plot
from inspector.render.writers.markdown import write_markdown
from inspector.render.writers.plot import LINES, list_plot_text
from inspector.render.writers.text import write_text
from tests.golden.render_reports import HOSTILE_TEXT
from tests.memory.tapes import Tape
from tests.render.pages import make_report

USABLE = 500 * MIB


def make_recording(op: str = "aten.mm.default") -> Recording:
    """Return two steps: 100 MiB of weights, activations that grow and go, in each a peak of 200 MiB for a moment."""
    tape = Tape().at(0, Phase.LOAD, "model", "to").allocate(0, 100 * MIB, Category.WEIGHTS)
    for step in (1, 2):
        first = step * 10_000
        tape.at(step, Phase.FORWARD, "model.layers.0", "aten.mm.default")
        for block in range(first, first + 1_000):
            tape.allocate(block, 40 * 1024, Category.ACTIVATIONS)
        tape.at(step, Phase.BACKWARD, "model.loss", op)
        tape.allocate(first + 5_000, (59 + step) * MIB, Category.LOGITS_AND_LOSS).free(first + 5_000)
        for block in range(first, first + 1_000):
            tape.free(block)
        tape.at(step, Phase.OPTIMIZER, "", "aten.add").allocate(first + 6_000, MIB).free(first + 6_000)
    return Recording(tape=tape.events)


def make_verdict(usable_bytes: int) -> Verdict:
    """Return a verdict on a card that can hand out so much."""
    return Verdict(
        gpu="Card",
        memory_bytes=usable_bytes,
        overhead_bytes=0,
        usable_bytes=usable_bytes,
        outcome=Fit.YES,
        headroom_bytes=0,
    )


def make_plot(recording: Recording, usable_bytes: int = USABLE) -> Plot:
    """Return the plot of a run on a card."""
    report: Report = dataclasses.replace(make_report(recording), fit=(make_verdict(usable_bytes),))
    return build_plot(report, recording)


def draw(plot: Plot, width: int, encoding: str = "utf-8", *, color: bool = False) -> list[str]:
    """Return what is printed of a plot alone."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
    section = Section(title="", blocks=(plot,))
    document = Document(title="t", subtitle=(), sections=(section,), warnings=(), footer="")
    write_text(document, width=width, color=color, stream=stream)
    stream.flush()
    return raw.getvalue().decode(encoding).splitlines()[2:]


def test_a_plot_is_of_the_step_with_the_peak() -> None:
    """Each of its columns is the largest moment of its stretch, in layers that add up to it."""
    recording = make_recording()
    report = make_report(recording)
    plot = make_plot(recording)
    assert plot.title == "Memory over step 2: 2,004 allocations and frees"
    assert [name for name, _ in plot.phases] == ["forward pass", "backward pass", "optimizer"]
    assert report.memory is not None
    assert sum(plot.columns[plot.peak].layer_bytes) == report.memory.peak_allocated_bytes
    assert max(sum(column.layer_bytes) for column in plot.columns) == report.memory.peak_allocated_bytes
    assert max(column.reserved_bytes for column in plot.columns) == report.memory.peak_reserved_bytes
    assert dict(zip(plot.layers, plot.columns[0].layer_bytes, strict=True))["weights"] == 100 * MIB


@pytest.mark.parametrize("width", [40, 80, 81, 200, 900])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_plot_has_twenty_lines_in_any_width_and_keeps_its_peak(width: int, encoding: str) -> None:
    """Each as wide as the terminal at most; one of its columns reaches the height of the peak."""
    lines = draw(make_plot(make_recording()), width, encoding)
    assert len(lines) == LINES
    assert max(map(len, lines)) <= width
    loss = "░" if encoding == "utf-8" else "-"
    axis = next(index for index, line in enumerate(lines) if line.lstrip()[:1] in "└+" and "0" not in line)
    place = lines[axis].index("▲" if encoding == "utf-8" else "^")
    column = [line[place] for line in lines[1:axis] if len(line) > place]
    assert column.count(loss) >= 3
    assert lines[-1].startswith(("▲ peak 201.06 MiB", "^ peak 201.06 MiB"))


def test_a_stream_without_blocks_gets_ascii() -> None:
    assert "".join(draw(make_plot(make_recording()), 80, "ascii")).isascii()
    assert "".join(draw(make_plot(make_recording()), 80, "cp1252")).replace("·", ".").isascii()


def test_colors_show_two_layers_in_a_cell_and_none_are_written_without() -> None:
    plot = make_plot(make_recording())
    assert not [line for line in draw(plot, 80) if "\x1b" in line]
    colored = "".join(draw(plot, 80, color=True))
    assert "\x1b[34m█" in colored  # weights
    assert ";43m" in colored  # activations above something else in one cell


def test_a_card_near_the_run_is_a_line_and_one_far_above_is_named() -> None:
    near, far = (draw(make_plot(make_recording(), usable), 80) for usable in (220 * MIB, 5000 * MIB))
    assert any("╌" * 20 in line for line in near)
    assert any(line.endswith("╌ Card has 220.00 MiB") for line in near)
    assert not any("╌" * 20 in line for line in far)
    assert any("Card has 4.88 GiB, above the picture" in line for line in far)


def test_a_layer_that_is_nowhere_in_the_picture_is_not_in_its_legend() -> None:
    text = "\n".join(list_plot_text(make_plot(make_recording())))
    assert "activations" in text
    assert "KV cache" not in text
    assert "temporaries" not in text


def test_hostile_names_stay_in_their_line() -> None:
    """Also in Markdown, where the plot is a block of code that they cannot end."""
    plot = make_plot(make_recording(f"```\n{HOSTILE_TEXT}"))
    lines = draw(plot, 60)
    assert len(lines) == LINES
    assert all(character.isprintable() for line in lines for character in line)
    stream = io.StringIO()
    section = Section(title="", blocks=(plot,))
    write_markdown(Document(title="t", subtitle=(), sections=(section,), warnings=(), footer=""), stream)
    assert [line for line in stream.getvalue().splitlines() if line.startswith("```")] == ["```text", "```"]
