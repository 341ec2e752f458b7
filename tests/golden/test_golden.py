"""Text, Markdown and JSON of the hand-written reports, line by line.

`UPDATE_GOLDENS=1 python -m pytest tests/golden` writes the files anew; the difference is then read in review.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from inspector.records import Report
from inspector.render.json_report import render_json
from inspector.render.markdown import render_markdown
from inspector.render.text import render_text
from tests.render_reports import REPORTS

FILES = Path(__file__).parent / "files"
WIDTH = 100


def rendered(report: Report, suffix: str) -> str:
    """Return a report as the file with this suffix holds it."""
    stream = io.StringIO()
    if suffix == "txt":
        render_text(report, width=WIDTH, color=False, stream=stream)
    elif suffix == "60.txt":
        render_text(report, width=60, color=False, stream=stream)
    elif suffix == "md":
        render_markdown(report, stream)
    else:
        render_json(report, stream)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", ["txt", "60.txt", "md", "json"])
@pytest.mark.parametrize("name", REPORTS)
def test_output_is_the_golden_file(name: str, suffix: str) -> None:
    """Every line is the one that was read and found good."""
    path = FILES / f"{name}.{suffix}"
    text = rendered(REPORTS[name], suffix)
    if os.environ.get("UPDATE_GOLDENS") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines()


def test_no_golden_file_is_left_over() -> None:
    """Each file belongs to a report that still exists."""
    expected = {f"{name}.{suffix}" for name in REPORTS for suffix in ("txt", "60.txt", "md", "json")}
    assert {path.name for path in FILES.iterdir()} == expected
