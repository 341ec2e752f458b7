"""How a browser takes a page of `--format html`: when it first paints, and which tasks keep it from answering.

    python benchmarks/open_page.py report.html ...

wants playwright and a Chromium. Each file is opened, shown whole, taken to three moments and rearranged twice.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

_WATCH = """
window.tasks = [];
new PerformanceObserver(list => { for (const task of list.getEntries()) window.tasks.push(Math.round(task.duration)); })
    .observe({type: "longtask", buffered: true});
"""
_GO = """share => { const slider = document.getElementById("moment");
    slider.value = Number(slider.max) * share; slider.dispatchEvent(new Event("input")); }"""


def main(files: list[Path]) -> None:
    """Print a line for each file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for file in files:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.add_init_script(_WATCH)
            page.goto(file.resolve().as_uri())
            page.wait_for_timeout(1000)
            paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            opening = page.evaluate("window.tasks.splice(0)")
            page.click("text=whole run")
            for share in (0.2, 0.5, 0.9):
                page.evaluate(_GO, share)
                page.wait_for_timeout(200)
            for button in ("layers together", "by module"):
                page.click(f"text={button}")
                page.wait_for_timeout(200)
            playing = page.evaluate("window.tasks")
            size = file.stat().st_size
            print(
                f"{file}: {size:,} bytes, first paint after {paint:.0f} ms, tasks over 50 ms: {opening}, then {playing}"
            )
        browser.close()


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
