"""Take the picture of `inspect app` that docs/how-to/run-the-app.md shows.

    inspect app & python benchmarks/picture_app.py http://127.0.0.1:7860

writes docs/pictures/app.png. It wants playwright and a Chromium; the model is in the bundled catalogue.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

_PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "app.png"
_PATIENCE = 120_000


def main(address: str) -> None:
    """Open the page, let a slider ask, and take the picture of the answer."""
    _PICTURE.parent.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 940})
        page.goto(address)
        page.wait_for_selector("#report iframe", timeout=_PATIENCE)
        page.fill("#seq-len input[type=number]", "2048")
        page.keyboard.press("Tab")
        page.wait_for_function("document.querySelector('#command textarea').value.includes('2048')", timeout=_PATIENCE)
        page.frame_locator("#report iframe").locator("#place").wait_for(timeout=_PATIENCE)
        page.wait_for_timeout(2000)  # until the frame is painted
        page.screenshot(path=_PICTURE)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
