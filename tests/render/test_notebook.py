"""A report in a notebook: its pictures in a frame, and its tables wherever scripts and frames are stripped."""

from __future__ import annotations

import dataclasses
import html
import re
import subprocess
import sys
from pathlib import Path

from inspector.records.report import Report
from inspector.render.page.data import build_page_data
from inspector.render.page.page import format_drawing
from inspector.render.writers.html import render_html
from tests.golden.render_reports import HOSTILE
from tests.memory.test_snapshot import RECORDINGS
from tests.render.pages import make_report, read_data
from tests.render.test_page import Elements, hostile_recording


def make_drawn_report() -> Report:
    """Return a report of a run with hostile names, drawn as in a notebook."""
    recording = hostile_recording()
    report = make_report(recording, HOSTILE)
    return dataclasses.replace(report, drawing=format_drawing(build_page_data(report, recording)))


def test_a_notebook_shows_the_run_in_a_frame() -> None:
    """It has the page's pictures and data, may run scripts and nothing else, and loads nothing."""
    report = make_drawn_report()
    ((_, frame),) = [found for found in Elements(render_html(report)).found if found[0] == "iframe"]
    assert frame["sandbox"] == "allow-scripts"
    assert "src" not in frame
    page = frame["srcdoc"]
    assert page is not None
    assert format_drawing(read_data(page)) == report.drawing
    assert "default-src 'none'; script-src 'sha256-" in html.unescape(page)
    assert 'id="timeline"' in page
    assert "<header>" not in page


def test_tables_are_left_where_scripts_and_frames_are_stripped() -> None:
    """The rest of the fragment is what a report without a drawing shows, and has no script of its own."""
    report = make_drawn_report()
    shown = render_html(report)
    stripped = re.sub(r"<iframe.*?</iframe>\n?", "", shown, flags=re.DOTALL)
    assert stripped == render_html(dataclasses.replace(report, drawing=None))
    assert "<table" in stripped
    assert f"{report.parameters.total:,}" in stripped
    assert not [tag for tag, _ in Elements(stripped).found if tag in ("script", "iframe")]
    assert not [tag for tag, _ in Elements(shown).found if tag == "script"]
    assert re.sub(r"<script.*?</script>", "", shown, flags=re.DOTALL) == shown


def test_a_drawing_is_no_part_of_what_was_found() -> None:
    """Reports with and without one are equal, print alike and have the same JSON."""
    recording = RECORDINGS["plain 1"]
    report = make_report(recording)
    drawn = dataclasses.replace(report, drawing="{}")
    assert drawn == report
    assert drawn.to_dict() == report.to_dict()
    assert repr(drawn) == repr(report)


def test_only_a_notebook_has_its_runs_drawn(tmp_path: Path) -> None:
    """The worker that traces a run draws it, too, so that the notebook gets a picture and no tape."""
    (tmp_path / "ipykernel.py").write_text("")
    program = """
import sys, threading
import inspector
arguments = {"peft": {"peft_type": "LORA", "target_modules": ["q_proj"]}, "recipe": {"seq_len": 8}, "offline": True}
plain = inspector.inspect("Qwen/Qwen2.5-0.5B", **arguments)
import ipykernel
threading.Thread(target=threading.Event().wait, daemon=True).start()
drawn = inspector.inspect("Qwen/Qwen2.5-0.5B", **arguments)
counted = inspector.inspect("Qwen/Qwen2.5-0.5B", offline=True, count_only=True)
print(plain.drawing, drawn == plain, "<iframe" in plain._repr_html_(), "<iframe" in drawn._repr_html_(),
      drawn.drawing[:9], len(drawn.drawing) < 600_000, counted.drawing)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
    )
    assert ran.stdout.split() == ["None", "True", "False", "True", '{"schema"', "True", "None"]
