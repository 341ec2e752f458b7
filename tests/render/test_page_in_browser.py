"""The page in a real browser, where there is one: `pip install playwright`, and Debian's chromium.

Skipped elsewhere. What a page may do at all, and that text in it is escaped, test_page.py holds without one.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inspector.memory.allocator.settings import MIB
from inspector.memory.recording import Recording
from inspector.records.tape import Category, Phase
from inspector.render.page.data import build_page_data
from inspector.render.page.page import format_drawing
from inspector.render.writers.html import render_html
from inspector.workloads.registry import GENERATE
from tests.golden.render_reports import HOSTILE
from tests.memory.tapes import Tape
from tests.render.pages import make_report, write
from tests.render.test_page import hostile_recording, make_generation

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


def long_recording() -> Recording:
    """Return a run of 40,000 events, one of which is the peak for a moment."""
    tape = Tape().at(0, Phase.LOAD, "model.embed", "to").allocate(0, 50 * MIB, Category.WEIGHTS)
    for block in range(1, 20_000):
        phase = Phase.FORWARD if block < 12_000 else Phase.BACKWARD
        tape.at(1, phase, f"model.layers.{block % 32}.mlp", "aten.mm.default")
        tape.allocate(block, (70 if block == 7_777 else 2) * MIB, Category.ACTIVATIONS).free(block)
    return Recording(tape=tape.events)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Yield what starts the browser of the machine."""
    with playwright.sync_playwright() as started:
        yield started.chromium


@pytest.fixture(scope="module")
def browser(chromium: Any) -> Iterator[Any]:
    """Start the browser of the machine."""
    opened = chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield opened
    opened.close()


@pytest.fixture(params=["laptop", "phone, dark"])
def page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    """Open a page of each size; at its end nothing may have been complained of, asked for or said."""
    size = {"width": 1280, "height": 800} if request.param == "laptop" else {"width": 390, "height": 844}
    context = browser.new_context(viewport=size, color_scheme="light" if request.param == "laptop" else "dark")
    opened, heard = context.new_page(), []
    opened.on("console", lambda message: heard.append(message.text))
    opened.on("pageerror", lambda error: heard.append(str(error)))
    opened.on("dialog", lambda dialog: heard.append(dialog.message))
    opened.on("request", lambda asked: heard.extend([asked.url] * (not asked.url.startswith("file:"))))
    yield opened
    assert heard == []
    context.close()


def open_page(page: Any, folder: Path, text: str) -> None:
    """Open a file with this text."""
    (folder / "report.html").write_text(text, encoding="utf-8", errors="backslashreplace")
    page.goto((folder / "report.html").as_uri())


def test_a_page_shows_the_peak_and_any_moment(page: Any, tmp_path: Path) -> None:
    """It opens at the peak, fits its window, says what is under the pointer, and goes to the moment that is clicked."""
    recording = long_recording()
    open_page(page, tmp_path, write(make_report(recording), recording))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "At the peak: 120.00 MiB allocated" in page.inner_text("#place")
    assert "activations\n70.00 MiB" in page.inner_text("#parts")
    plot = page.locator(".u-over")
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] * 0.9, "y": box["height"] / 2})
    tip = page.inner_text(".tip")
    assert "backward pass" in tip
    assert "model.layers." in tip
    assert "aten.mm.default" in tip
    plot.click(position={"x": box["width"] * 0.9, "y": box["height"] / 2})
    assert "At the peak" not in page.inner_text("#place")
    assert "backward pass" in page.inner_text("#place")
    page.click("#to-peak")
    assert "At the peak" in page.inner_text("#place")
    page.click("text=by module")
    assert "model" in page.inner_text("#icicle")


def test_the_moment_is_one_that_is_shown(page: Any, tmp_path: Path) -> None:
    """Another step is looked at where it takes most; a double click goes back to what was chosen last."""
    recording = make_generation(300)
    open_page(page, tmp_path, write(make_report(recording, workload=GENERATE), recording))
    page.click("text=last step")
    assert "step 300, decode" in page.inner_text("#place")
    page.click("text=around the peak")
    assert "At the peak" in page.inner_text("#place")
    page.click("text=last step")
    box = page.locator(".u-over").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 80, box["y"] + 20, steps=4)
    page.mouse.up()
    assert page.locator("#spans button[aria-pressed=true]").count() == 0
    page.locator(".u-over").dblclick(position={"x": 10, "y": 10})
    assert page.locator("#spans button[aria-pressed=true]").inner_text() == "last step"


def test_one_goes_into_a_part_and_out_again(page: Any, tmp_path: Path) -> None:
    recording = long_recording()
    open_page(page, tmp_path, write(make_report(recording), recording))
    page.locator("#icicle button").nth(1).click()
    assert "back to all" in page.inner_text("#up")
    page.click("#up")
    assert not page.is_visible("#up")


def test_what_is_drawn_of_a_long_run_has_its_peak(page: Any, tmp_path: Path) -> None:
    """However few events are drawn: the largest, the smallest and the most reserved of each stretch are among them."""
    recording = long_recording()
    open_page(page, tmp_path, write(make_report(recording), recording))
    drawn, peak = page.evaluate(
        """() => { const {choose, allocated, reserved} = inspectorPage, last = allocated.length - 1;
        const events = choose(0, last, 200), top = Math.max(...allocated);
        return [events.length, [events.some(e => allocated[e] === top), events[0], events.at(-1) === last,
            Math.max(...events.map(e => reserved[e])) === Math.max(...reserved)]]; }"""
    )
    assert drawn < 700
    assert peak == [True, 0, True, True]


def test_the_steps_of_a_generation_are_looked_at_together_and_one_by_one(page: Any, tmp_path: Path) -> None:
    """Of many steps only some have a button; any is chosen by its number."""
    recording = make_generation(300)
    open_page(page, tmp_path, write(make_report(recording, workload=GENERATE), recording))
    buttons = page.locator("#spans button").all_inner_texts()
    assert buttons == ["all steps", "first step", "step of the peak", "last step", "whole run", "around the peak"]
    assert page.get_attribute("#spans button >> nth=0", "aria-pressed") == "true"
    page.fill("#step", "999")
    page.press("#step", "Enter")
    assert page.input_value("#step") == "300"
    page.fill("#step", "200")
    page.press("#step", "Enter")
    page.evaluate("inspectorPage.setMoment(Number(document.getElementById('moment').max))")
    assert "step 200, decode" in page.inner_text("#place")
    page.click("text=step of the peak")
    page.evaluate("inspectorPage.setMoment(Number(document.getElementById('moment').max))")
    assert "step 225, decode" in page.inner_text("#place")


def test_a_page_says_what_is_missing_where_no_script_runs(browser: Any, tmp_path: Path) -> None:
    """Figures, sections and the command do not need any."""
    recording = long_recording()
    (tmp_path / "report.html").write_text(write(make_report(recording), recording, "inspect x"), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto((tmp_path / "report.html").as_uri())
    assert opened.is_visible("#unscripted")
    assert "134,217,728" in opened.inner_text(".answers")
    opened.click("text=Parameters by role")
    assert opened.is_visible("details.section[open] table")
    context.close()


def test_a_page_needs_no_webgl(chromium: Any, tmp_path: Path) -> None:
    """Its pictures are plain canvases and elements."""
    recording = long_recording()
    (tmp_path / "report.html").write_text(write(make_report(recording), recording), encoding="utf-8")
    opened = chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-3d-apis"])
    page = opened.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.createElement('canvas').getContext('webgl')") is None
    assert "At the peak: 120.00 MiB allocated" in page.inner_text("#place")
    drawn = "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
    assert page.locator("#timeline canvas").evaluate(drawn) > 20
    opened.close()


def test_a_printed_page_has_its_pictures_and_all_sections(page: Any, tmp_path: Path) -> None:
    """What is only there to be pressed is not on paper, which is light whatever the screen is."""
    recording = long_recording()
    open_page(page, tmp_path, write(make_report(recording), recording))
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#icicle button").first.is_visible()
    assert page.locator("#map").is_visible()
    assert not page.locator("#spans button").first.is_visible()
    assert page.locator("details.section:not([open])").count() == 0
    colors = "() => [document.body, document.querySelector('.answer')].map(e => getComputedStyle(e).backgroundColor)"
    assert page.evaluate(colors) == ["rgb(255, 255, 255)", "rgb(246, 246, 249)"]
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert (page.evaluate(colors)[0] == "rgb(255, 255, 255)") is (page.viewport_size["width"] == 1280)


@pytest.mark.parametrize("is_traced", [True, False])
def test_modules_are_found_by_their_names(page: Any, tmp_path: Path, *, is_traced: bool) -> None:
    """What does not have the text is hidden, and what has it is opened; also where no step was traced."""
    recording = long_recording()
    report = make_report(recording)
    if is_traced:
        open_page(page, tmp_path, write(report, recording))
    else:
        open_page(page, tmp_path, write(dataclasses.replace(report, memory=None), None))
    page.fill("#find", "mlp")
    shown = page.eval_on_selector_all(
        "#tree .line", "lines => lines.filter(l => l.offsetParent).map(l => l.textContent)"
    )
    assert any("mlp" in line for line in shown)
    assert not any("norm" in line.lower() for line in shown)
    page.fill("#find", "layers.3.mlp")
    assert page.locator("#tree .line:visible").count() > 1
    page.fill("#find", "nowhere")
    assert page.is_visible("#none-found")


def test_hostile_names_run_nothing_and_ask_for_nothing(page: Any, tmp_path: Path) -> None:
    """They are shown as they are, also where scripts put them: under the pointer and in the arrangement by module."""
    recording = hostile_recording()
    open_page(page, tmp_path, write(make_report(recording, HOSTILE), recording))
    page.hover(".u-over")
    assert "<img src=x onerror=alert(1)>" in page.inner_text(".tip")
    page.click("text=by module")
    assert page.locator("img").count() == 0
    calm = write(make_report(long_recording()), long_recording())
    assert page.locator("script").count() == calm.count("</script>")


def test_a_notebook_cell_shows_the_run_and_its_scripts_see_nothing_around_them(page: Any, tmp_path: Path) -> None:
    """Two reports in one notebook do not disturb each other; each frame is of an origin of its own."""
    recording = long_recording()
    report = make_report(recording)
    drawing = format_drawing(build_page_data(report, recording))
    cell = render_html(dataclasses.replace(report, drawing=drawing))
    open_page(page, tmp_path, f"<!doctype html><meta charset=utf-8><body>{cell}{cell}</body>")
    for index in (0, 1):
        frame = page.frame_locator("iframe").nth(index)
        assert "At the peak: 120.00 MiB allocated" in frame.locator("#place").inner_text()
        frame.locator("text=by module").click()
        assert "model" in frame.locator("#icicle").inner_text()
    assert page.evaluate("window.inspectorPage") is None
    assert page.evaluate("document.querySelector('iframe').contentDocument") is None
