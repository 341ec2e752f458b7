"""Formats that show a run: they go to a file, want a run that was traced, and hold the figures of the report."""

from __future__ import annotations

import html
import itertools
import pickle
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import SMALL, Ran, assert_refused, bundled_config, run, written
from tests.render.pages import count_bytes, read_data

RUN = (SMALL, "--offline", "--lora", "r=2", "--seq-len", "8", "--quiet")


@pytest.fixture(scope="module")
def training() -> dict[str, Any]:
    """Return what the report has of the run."""
    found = run(*RUN, "--json").report["training"]
    assert isinstance(found, dict)
    return found


def test_a_snapshot_has_the_totals_of_the_report(tmp_path: Path, training: dict[str, Any]) -> None:
    """The file ends where the second step does; its trace takes from the device what the report says is reserved."""
    assert run(*RUN, "--output", str(tmp_path / "snapshot.pickle")) == Ran(code=0, out="", err="")
    snapshot = pickle.loads((tmp_path / "snapshot.pickle").read_bytes())
    segments, trace = snapshot["segments"], snapshot["device_traces"][0]
    assert sum(segment["allocated_size"] for segment in segments) == training["end_of_step_allocated_bytes"]
    assert {entry["action"] for entry in trace} == {"alloc", "free_requested", "free_completed", "segment_alloc"}
    taken = sum(entry["size"] for entry in trace if entry["action"] == "segment_alloc")
    assert taken == sum(segment["total_size"] for segment in segments) == training["peak_reserved_bytes"]
    sizes = [
        entry["block_size"] * (1 if entry["action"] == "alloc" else -1)
        for entry in trace
        if entry["action"] in ("alloc", "free_completed")
    ]
    assert max(itertools.accumulate(sizes)) == training["peak_allocated_bytes"]


def test_a_snapshot_of_no_run_is_refused(tmp_path: Path) -> None:
    """Before the work where that is known, and with the reason where a model cannot be traced."""
    file = tmp_path / "snapshot.pickle"
    assert_refused(run(*RUN, "--count-only", "--output", str(file)), 2, "--count-only traces none")
    assert_refused(run(*RUN, "--details", "--output", str(file)), 2, "drop --details")
    untraced = written(tmp_path, bundled_config("facebook/bart-large"))
    assert_refused(run(untraced, "--offline", "--quiet", "--output", str(file)), 4, "there is no snapshot")
    assert not file.exists()


def test_a_page_has_the_run_of_the_report_and_says_how_to_make_it_again(
    tmp_path: Path, training: dict[str, Any]
) -> None:
    """The name of the file chooses the format; the command is the one that was typed, quoted for a shell."""
    file = tmp_path / "a report.html"
    assert run(*RUN, "--output", str(file)) == Ran(code=0, out="", err="")
    page = file.read_text(encoding="utf-8")
    data = read_data(page)
    allocated, _, reserved = count_bytes(data)
    assert max(allocated) == allocated[data["peak"]["event"]] == training["peak_allocated_bytes"]
    assert max(reserved) == training["peak_reserved_bytes"]
    assert allocated[-1] == training["end_of_step_allocated_bytes"]
    typed = f"inspect {SMALL} --offline --lora r=2 --seq-len 8 --output {shlex.quote(str(file))}"
    assert f"<pre>{html.escape(typed).replace('&#x27;', '&#39;')}</pre>" in page
    assert f"{training['peak_allocated_bytes']:,} bytes" in page


def test_a_page_of_counts_alone_says_that_it_has_no_timeline(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert run(SMALL, "--offline", "--count-only", "--format", "html", "--output", str(file)).code == 0
    assert "There is no timeline" in file.read_text(encoding="utf-8")
    assert_refused(run(SMALL, "--format", "html", "--details", "--output", str(file)), 2, "A page has all sections")


def test_what_an_engine_makes_of_a_model_is_a_page_without_a_timeline(tmp_path: Path) -> None:
    """With the answer of the first screen in its place; there is no run to write as a snapshot."""
    file = tmp_path / "report.html"
    serving = (SMALL, "--offline", "--engine", "vllm", "--gpu", "h100", "--quiet", "--output")
    assert run(*serving, str(file)).code == 0
    page = file.read_text(encoding="utf-8")
    assert "There is no timeline: what an engine makes of a model" in page
    assert "cache of a token" in page[: page.index("There is no timeline")]
    assert_refused(run(*serving, str(tmp_path / "snapshot.pickle")), 2, "--engine traces none")


def test_plans_and_comparisons_are_pages_too(tmp_path: Path) -> None:
    """By the ending of the file or by --format, with the command that makes them again."""
    file = tmp_path / "page.html"
    counted = ("compare", SMALL, "--offline", "--count-only", "--with", "--lora r=8", "--quiet")
    assert run(*counted, "--output", str(file)) == Ran(code=0, out="", err="")
    page = file.read_text(encoding="utf-8")
    assert "There is no picture: no step of these recipes was traced." in page
    typed = f"inspect compare {SMALL} --offline --count-only --output {shlex.quote(str(file))} --with '--lora r=8'"
    assert f"<pre>{typed.replace(chr(39), '&#39;')}</pre>" in page
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tiny = written(tmp_path, {**bundled_config(SMALL), **sizes, "num_key_value_heads": 2, "vocab_size": 64})
    plan = ("plan", tiny, "--offline", "--gpu", "h100", "--fit", "none", "--quantization", "none", "--seq-len", "8")
    shown = run(*plan, "--format", "html")
    assert shown.code == 0
    assert '<div class="rowlabel"><b>1</b> full' in shown.out


def test_a_plot_stands_below_the_first_screen(training: dict[str, Any]) -> None:
    """Before the sections that were asked for, twenty lines as wide as text in a pipe."""
    lines = run(*RUN, "--plot", "--show", "training").out.splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith("Memory over step"))
    assert lines.index("One training step") > begin
    plot = lines[begin : begin + 20]
    assert max(map(len, plot)) <= 80
    assert plot[-1].startswith(f"▲ peak {training['peak_allocated_bytes'] / 2**20:.2f} MiB: step ")
    assert not lines[begin + 20]


def test_a_plot_of_no_run_is_refused_or_says_why(tmp_path: Path) -> None:
    assert_refused(run(*RUN, "--plot", "--count-only"), 2, "--count-only traces none")
    assert_refused(run(*RUN, "--plot", "--json"), 2, "--plot draws in text")
    assert_refused(run(*RUN, "--plot", "--output", str(tmp_path / "a.html")), 2, "a page has the timeline")
    untraced = written(tmp_path, bundled_config("facebook/bart-large"))
    ran = run(untraced, "--offline", "--quiet", "--plot")
    assert ran.code == 0
    assert "There is no timeline. " in ran.out


def test_a_terminal_is_asked_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line to type stands in the refusal; a pipe may have it."""
    monkeypatch.setattr("inspector.cli.jobs.sys", _SysWithTerminal())
    assert_refused(run(*RUN, "--format", "memory-viz"), 2, "add --output snapshot.pickle")
    assert_refused(run(*RUN, "--format", "memory-viz", "--output", "-"), 2, "add --output snapshot.pickle")
    assert_refused(run(*RUN, "--format", "html"), 2, "add --output report.html")


class _SysWithTerminal:
    """The module `sys` with a terminal for standard output."""

    class stdout:  # noqa: N801  # it stands for the stream of that name
        isatty = staticmethod(lambda: True)

    def __getattr__(self, name: str) -> object:
        """Return everything else as it is."""
        return getattr(sys, name)
