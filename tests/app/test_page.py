"""The page of `inspect app` in a real browser, where there is one: what a visitor does, at three widths.

Nothing may be complained of, and nothing may be asked of another host.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.running import App, serve
from tests.cli.running import bundled_config
from tests.source.loopback_hub import LoopbackHub

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed"),
]
PATIENCE = 60_000
FILE = b"base_model: org/small\nadapter: lora\nlora_r: 2\nlora_target_linear: true\nsequence_len: 64\n"
COMMAND = "document.querySelector('#command textarea').value"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """Run the app beside a Hub."""
    config = {**bundled_config("Qwen/Qwen2.5-0.5B"), "num_hidden_layers": 2}
    with LoopbackHub() as hub:
        for name in ("org/small", "Qwen/Qwen2.5-7B"):  # the second is what a visitor sees first
            hub.host(name, {"config.json": json.dumps(config).encode()})
        with serve(tmp_path_factory.mktemp("app"), "--workers", "1", environment={"HF_ENDPOINT": hub.endpoint}) as app:
            yield app


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start the browser of the machine."""
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=[(1440, 900, "light"), (820, 1100, "dark"), (390, 844, "dark")], ids=str)
def page(request: pytest.FixtureRequest, app: App, browser: Any) -> Iterator[Any]:
    """Open the page and wait for the first answer."""
    width, height, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    opened, heard = context.new_page(), []
    opened.on("console", lambda message: heard.extend([message.text] * (message.type == "error")))
    opened.on("pageerror", lambda error: heard.append(str(error)))
    opened.on("dialog", lambda dialog: heard.append(dialog.message))
    own = (app.address, "data:", "blob:")
    opened.on("request", lambda asked: heard.extend([asked.url] * (not asked.url.startswith(own))))
    opened.goto(app.address)
    opened.wait_for_selector("#report iframe", timeout=PATIENCE)
    yield opened
    context.close()
    assert heard == []


def wait_for_command(page: Any, part: str) -> str:
    """Wait until the command that is shown has a part, and return it."""
    page.wait_for_function(f"part => {COMMAND}.includes(part)", arg=part, timeout=PATIENCE)
    return str(page.evaluate(COMMAND))


def choose_model(page: Any, name: str) -> None:
    """Type a model and press Enter."""
    page.fill("#model input", name)
    page.keyboard.press("Enter")


def test_the_first_answer_is_there_and_a_slider_asks_anew(page: Any) -> None:
    """The report is in its frame, the page fits its window, and a slider that is let go of is an option."""
    frame = page.frame_locator("#report iframe")
    assert "RTX 4090" in frame.locator(".verdict").inner_text(timeout=PATIENCE)
    assert "peak" in frame.locator("#place").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "--seq-len" not in page.evaluate(COMMAND)
    page.locator("#seq-len input[type=range]").scroll_into_view_if_needed()
    box = page.locator("#seq-len input[type=range]").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.1, box["y"] + box["height"] / 2)
    assert wait_for_command(page, "--seq-len").startswith("inspect Qwen/Qwen2.5-7B --lora r=16")
    page.fill("#batch-size input[type=number]", "3")
    page.keyboard.press("Tab")
    wait_for_command(page, "--batch-size 3")
    assert "answered in" in page.inner_text("#said")


def test_a_model_is_completed_from_the_catalogue_or_typed(page: Any) -> None:
    """What is no id is said in one line, as text, and the answer before it stays."""
    page.fill("#model input", "")
    page.locator("#model input").press_sequentially("llama-3.1-8b")
    page.locator("[role=option]", has_text="Llama-3.1-8B").first.wait_for(timeout=PATIENCE)
    page.locator("[role=option]", has_text="Qwen").first.wait_for(state="detached", timeout=PATIENCE)
    page.fill("#model input", "")
    choose_model(page, "org/small")
    wait_for_command(page, "inspect org/small ")
    for hostile in ("/etc/passwd", "<img src=x onerror=alert(1)>", "${alert(1)}", "{{alert}}"):
        choose_model(page, hostile)
        page.wait_for_function(
            "text => document.querySelector('.said.refused')?.innerText.includes(text)", arg=hostile, timeout=PATIENCE
        )
    assert page.locator("#said img").count() == 0
    assert page.evaluate(COMMAND).startswith("inspect org/small ")
    assert page.locator("#report iframe").count() == 1


def test_a_training_file_that_is_dropped_fills_the_page(page: Any) -> None:
    """A setting that is changed then goes before the file; without the file the form speaks for itself again."""
    page.set_input_files("#file input[type=file]", files=[{"name": "my run.yaml", "mimeType": "", "buffer": FILE}])
    assert wait_for_command(page, "my_run.yaml") == "inspect my_run.yaml --gpu rtx-4090 --no-advice"
    page.wait_for_function("document.querySelector('#seq-len input[type=number]').value === '64'", timeout=PATIENCE)
    assert page.input_value("#model input") == "org/small"
    assert page.input_value("#rank input[type=number]") == "2"
    page.fill("#seq-len input[type=number]", "96")
    page.keyboard.press("Tab")
    assert wait_for_command(page, "96") == "inspect my_run.yaml --seq-len 96 --gpu rtx-4090 --no-advice"
    page.click("#file button[aria-label='Remove this file'], #file button[aria-label='Clear']")
    assert wait_for_command(page, "inspect org/small").startswith("inspect org/small --lora r=2 --targets all-linear")


def test_a_plan_is_a_table_of_its_own(page: Any) -> None:
    page.get_by_role("tab", name="Plan").click()
    page.click("#ask-plan")
    assert wait_for_command(page, "inspect plan").endswith("--gpu rtx-4090 --fit none")
    bars = page.frame_locator("#plan iframe").locator(".stack")
    bars.first.wait_for(timeout=PATIENCE)
    assert bars.count() > 3


def test_the_page_goes_on_where_scripts_of_an_answer_may_not(page: Any) -> None:
    """An answer sees neither the page around it nor what the page keeps."""
    frame = page.locator("#report iframe").element_handle().content_frame()
    frame.wait_for_selector("#place", timeout=PATIENCE)
    assert (
        frame.evaluate("() => { try { return parent.document.title } catch (e) { return e.name } }") == "SecurityError"
    )
    assert frame.evaluate("() => origin") == "null"


def test_the_folder_of_the_server_has_nothing_of_visitors(app: App) -> None:
    """But what the workers keep, and training files until they are cleared."""
    folder = Path(app.log).parent
    (place,) = (item for item in folder.iterdir() if item.is_dir())
    assert {item.name.partition("-")[0] for item in place.iterdir()} <= {"worker", "uploads"}
    assert [item for folder in place.glob("worker-*") for item in (folder / "work").glob("*")] == []
