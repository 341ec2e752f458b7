"""Make the pictures that README shows: the report and the plot as a terminal draws them, the page as a browser does.

    python benchmarks/make_pictures.py

writes docs/pictures/ anew. It wants playwright and a Chromium, and no network: the model is in the bundled catalogue.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from inspector.arguments.forms import build_request
from inspector.cli.option_names import name_options_in_notices
from inspector.pipeline import record
from inspector.records.request import LoraOptions
from inspector.render.document import Document, Section
from inspector.render.page.report import write_report_page
from inspector.render.sections.report import build_report_document
from inspector.render.timeline import build_plot
from inspector.render.writers.text import write_text

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
COMMAND = "inspect Qwen/Qwen2.5-7B --lora r=16 --targets all-linear --gpu 4090"
_WIDTH = 84
# A terminal leaves nothing between its lines; the browser's default would.
_TERMINAL = """<!doctype html><meta charset="utf-8"><style>{stylesheet}
body {{ margin: 0; background: {background}; color: {foreground}; width: fit-content; }}
pre {{ margin: 0; padding: 14px 18px; font: 15px/1.164 "DejaVu Sans Mono", monospace; }}
</style><pre>{code}</pre>"""


def main() -> None:
    """Write three pictures."""
    request, _ = build_request(
        model="Qwen/Qwen2.5-7B", peft=LoraOptions(r=16, targets="all-linear"), gpu="4090", offline=True
    )
    report, recording = record(request)
    assert recording is not None
    object.__setattr__(report, "warnings", name_options_in_notices(report.warnings))
    FOLDER.mkdir(exist_ok=True)
    section = Section(title="", blocks=(build_plot(report, recording),))
    plot = Document(title="", subtitle=(), sections=(section,), warnings=(), footer="")
    stream = io.StringIO()
    write_report_page(report, recording, stream, command=f"{COMMAND} --output report.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        photograph_terminal(browser, print_document(build_report_document(report), COMMAND), FOLDER / "report.png")
        photograph_terminal(browser, print_document(plot, f"{COMMAND} --plot"), FOLDER / "plot.png")
        photograph_page(browser, stream.getvalue(), FOLDER / "page.png")
        browser.close()


def print_document(document: Document, command: str) -> str:
    """Return what a terminal with colours shows of a document, below the command that was typed, as HTML."""
    printed = io.StringIO()
    write_text(document, width=_WIDTH, color=True, stream=printed)
    console = Console(record=True, file=io.StringIO(), width=_WIDTH, force_terminal=True, color_system="standard")
    console.print(Text(f"$ {command}"), soft_wrap=True)
    console.print(Text.from_ansi(printed.getvalue().strip("\n")), soft_wrap=True)
    return console.export_html(theme=DIMMED_MONOKAI, code_format=_TERMINAL)


def photograph_terminal(browser: Browser, text: str, target: Path) -> None:
    """Write a picture of lines of a terminal."""
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    page.set_content(text)
    page.locator("body").screenshot(path=target)
    page.close()


def photograph_page(browser: Browser, text: str, target: Path) -> None:
    """Write the first screen of a page as a laptop shows it, the pointer on the picture."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        file.write_text(text, encoding="utf-8")
        page = browser.new_page(viewport={"width": 1180, "height": 980})
        page.goto(file.as_uri())
        page.wait_for_timeout(500)
        box = page.locator(".u-over").bounding_box()
        assert box is not None
        page.hover(".u-over", position={"x": box["width"] * 0.22, "y": box["height"] * 0.4})
        page.wait_for_timeout(200)
        page.screenshot(path=target)
        page.close()


if __name__ == "__main__":
    main()
