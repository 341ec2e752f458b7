"""The page holds the figures of the report, and text from outside does nothing in it but be read."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types

from inspector.memory.allocator.settings import MIB
from inspector.memory.recording import Recording
from inspector.memory.timeline import fold
from inspector.records.fit import Advice, Fit, Purpose
from inspector.records.notice import Notice
from inspector.records.tape import Category, Event, Phase
from inspector.render.page.colors import CATEGORIES
from inspector.render.page.data import build_page_data
from tests.golden.render_reports import COUNT_ONLY, HOSTILE, HOSTILE_TEXT
from tests.memory.tapes import Tape
from tests.memory.test_snapshot import RECORDINGS
from tests.render.pages import count_bytes, make_report, read_data, write

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "reference" / "page.schema.json").read_text())


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.found.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        """Leave a script."""
        self._in_script = False

    def handle_data(self, data: str) -> None:
        """Note the text of a script."""
        if self._in_script:
            self.scripts[-1] += data


def hostile_recording() -> Recording:
    """Return a run of modules and operations with hostile names."""
    tape = Tape().at(0, Phase.LOAD, HOSTILE_TEXT, HOSTILE_TEXT).allocate(0, MIB, Category.WEIGHTS)
    tape.at(1, Phase.FORWARD, f"a.{HOSTILE_TEXT}</script><!--<script>", "</script><img src=x onerror=alert(1)>")
    return Recording(tape=tape.allocate(1, 3 * MIB, Category.ACTIVATIONS).free(1).events)


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_data_of_a_page_give_the_figures_of_the_report(name: str) -> None:
    """After each event that touches memory, what is allocated and reserved; at the peak, each category and segment."""
    recording = RECORDINGS[name]
    report = make_report(recording)
    data = build_page_data(report, recording)
    assert list(Draft202012Validator(SCHEMA).iter_errors(json.loads(json.dumps(data)))) == []
    timeline = fold(recording.tape, recording.settings, limit_bytes=recording.limit_bytes)
    touching = [index for index, event in enumerate(recording.tape) if touches_memory(recording.tape, event)]
    allocated, by_category, reserved = count_bytes(data)
    assert allocated == [timeline.allocated_bytes[index] for index in touching]
    assert reserved == [timeline.reserved_bytes[index] for index in touching]
    assert timeline.peak is not None
    peak = data["peak"]["event"]
    assert touching[peak] == timeline.peak.event_index
    at_peak = dict(zip(CATEGORIES, by_category[peak], strict=True))
    assert {category: size for category, size in at_peak.items() if size} == {
        category: size for category, size in timeline.peak.breakdown.items() if size
    }
    assert max(allocated) == allocated[peak] == data["peak"]["bytes"] == timeline.peak_allocated_bytes
    assert sum(sum(segment[2::2]) for segment in data["segments"]) == reserved[peak]
    places = range(len(CATEGORIES))
    held = [sum(s[i + 1] for s in data["segments"] for i in range(1, len(s), 2) if s[i] == k) for k in places]
    assert held == by_category[peak]


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_event_of_a_page_has_its_place(name: str) -> None:
    """Step, phase, module and operation are those of the tape."""
    recording = RECORDINGS[name]
    data = build_page_data(make_report(recording), recording)
    events = [event for event in recording.tape if touches_memory(recording.tape, event)]
    pairs = [pair for pair, count in zip(data["runs"][::2], data["runs"][1::2], strict=True) for _ in range(count)]
    places = [(data["names"][data["pairs"][p][0]], data["operations"][data["pairs"][p][1]]) for p in pairs]
    assert places == [(event.module, event.op) for event in events]
    stretches = {first: (step, phase) for step, phase, first in data["stretches"]}
    current = (-1, "")
    for index, event in enumerate(events):
        current = stretches.get(index, current)
        assert current == (event.step, event.phase.value)


def touches_memory(tape: object, event: Event) -> bool:
    """Tell whether an event is more than the making or the end of a tensor without elements."""
    assert isinstance(tape, list)
    return event.block < 0 or next(other for other in tape if other.block == event.block).bytes > 0


def test_every_category_has_its_place_in_the_stack() -> None:
    assert sorted(CATEGORIES) == sorted(Category)


def test_a_long_run_makes_a_small_file() -> None:
    """A tape of 200,000 events is to be less than 4 MB; this one has modules and operations of their own in each."""
    tape = Tape()
    for block in range(5_000):
        tape.at(1, Phase.FORWARD, f"model.layers.{block // 16}.mlp.{block % 16}", f"aten.op{block % 50}")
        tape.allocate(2 * block, 512 * (1 + block % 300), Category.ACTIVATIONS).allocate(2 * block + 1, 512)
        tape.free(2 * block + 1)
        if block > 100:
            tape.free(2 * (block - 100))
    recording = Recording(tape=tape.events)
    size = len(json.dumps(build_page_data(make_report(recording), recording), separators=(",", ":")))
    assert size / len(tape.events) < 4_000_000 / 200_000


def make_generation(steps: int) -> Recording:
    """Return a run of many steps: in each a cache that grows, what comes and goes, and in one of them the peak."""
    tape = Tape().at(0, Phase.LOAD, "model", "to").allocate(0, 50 * MIB, Category.WEIGHTS)
    for step in range(1, steps + 1):
        tape.at(step, Phase.PREFILL if step == 1 else Phase.DECODE, "model.layers.0", "aten.cat.default")
        first = 100 * step
        tape.allocate(first, step * 1024 * 4, Category.KV_CACHE)
        if step > 1:
            tape.free(first - 100)
        for block in range(1, 20):
            tape.allocate(first + block, 512 * block).allocate(first + 50 + block, 4096).free(first + block)
            tape.free(first + 50 + block)
        if step == steps * 3 // 4:
            tape.at(step, Phase.DECODE, "model.peak", "aten.mm.default").allocate(first + 99, 20 * MIB).free(first + 99)
    return Recording(tape=tape.events)


@pytest.mark.parametrize("most", [500, 4_000])
def test_a_run_of_many_events_keeps_its_peaks(most: int) -> None:
    """About so many events are left, each drawn moment holds no more than really lived, and the largest are exact."""
    recording = make_generation(400)
    report = make_report(recording)
    whole, data = (build_page_data(report, recording, count) for count in (10**6, most))
    assert len(whole["events"]) == whole["events_of_the_run"] == data["events_of_the_run"]
    assert most / 8 < len(data["events"]) <= most
    Draft202012Validator(SCHEMA).validate(json.loads(json.dumps(data)))
    (allocated, _, reserved), (all_allocated, _, all_reserved) = count_bytes(data), count_bytes(whole)
    assert report.memory is not None
    assert max(allocated) == allocated[data["peak"]["event"]] == report.memory.peak_allocated_bytes
    assert max(reserved) == max(all_reserved) == report.memory.peak_reserved_bytes
    assert set(allocated) & set(all_allocated)
    assert allocated[-1] == all_allocated[-1]
    places = [data["names"][data["pairs"][pair][0]] for pair in data["runs"][::2]]
    assert "model.peak" in places
    assert data["segments"] == whole["segments"]


def test_a_run_of_blocks_that_all_stay_is_left_as_it_is() -> None:
    """Nothing of it comes and goes, so that nothing can be left out."""
    tape = Tape().at(0, Phase.LOAD, "model", "to")
    for block in range(3_000):
        tape.allocate(block, 512, Category.WEIGHTS)
    recording = Recording(tape=tape.events)
    assert len(build_page_data(make_report(recording), recording, 100)["events"]) == 3_000


def test_the_first_screen_says_what_the_figures_are_of() -> None:
    """The recipe, and that they are a bound where they are: both decide what the verdict means."""
    recording = RECORDINGS["plain 1"]
    report = make_report(recording)
    assert report.memory is not None
    memory = dataclasses.replace(report.memory, upper_bound="upper bound, dequantized")
    page = write(dataclasses.replace(report, memory=memory), recording)
    first = page[: page.index('id="timeline"')]
    assert "training step: batch size 1, sequence length 1,024" in first
    assert "The figures are an upper bound, dequantized." in first
    assert f"{memory.peak_allocated_bytes:,} bytes" in first


def test_no_line_of_a_remedy_ends_within_the_name_of_an_option() -> None:
    """A browser may end a line after any hyphen: `--` would stand alone at its end."""
    recording = RECORDINGS["plain 1"]
    report = make_report(recording)
    assert report.fit
    advice = (Advice(purpose=Purpose.FIT, change="--gradient-checkpointing", total_bytes=4_900),)
    verdict = dataclasses.replace(report.fit[0], outcome=Fit.NO, advice=advice)
    page = write(dataclasses.replace(report, fit=(verdict,)), recording)
    remedies = re.findall(r"<li>(.*--.*)</li>", page[: page.index('id="timeline"')])
    assert remedies
    assert not [words for words in remedies if "--" in re.sub(r'<span class="option">--[a-z-]+</span>', "", words)]


# --- what a page is ---------------------------------------------------------------------------------------------------


def test_a_page_loads_nothing_and_runs_nothing_but_its_own_scripts() -> None:
    """No address in any element or style, and the hashes of its policy are those of the scripts that are in it."""
    page = write(make_report(RECORDINGS["plain 1"]), RECORDINGS["plain 1"], "inspect x")
    elements = Elements(page)
    assert not [tag for tag, _ in elements.found if tag in ("link", "img", "iframe", "object", "embed", "base", "a")]
    assert not [name for _, attributes in elements.found for name in attributes if name in ("src", "href")]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policy = next(attributes["content"] for tag, attributes in elements.found if "http-equiv" in attributes)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    data, *scripts = elements.scripts
    assert json.loads(data)["schema"] == "inspector-page/1"
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-([^']*)'", policy) == hashes


def test_hostile_text_stays_text() -> None:
    """In each field of the report and each name of the run: no element, attribute or control character comes of it."""
    recording = hostile_recording()
    warnings = (*HOSTILE.warnings, Notice(code="x", message=f"{HOSTILE_TEXT}</script>"))
    report = make_report(recording, dataclasses.replace(HOSTILE, warnings=warnings))
    page = write(report, recording, f"inspect '{HOSTILE_TEXT}'")
    calm = write(make_report(RECORDINGS["plain 1"]), RECORDINGS["plain 1"], "inspect x")
    assert {tag for tag, _ in Elements(page).found} <= {tag for tag, _ in Elements(calm).found} | {"li", "ul", "br"}
    attributes = {name for _, attributes in Elements(page).found for name in attributes}
    assert not [name for name in attributes if name.startswith("on") or name in ("src", "href")]
    assert len(Elements(page).scripts) == len(Elements(calm).scripts)
    data, *scripts = Elements(page).scripts
    assert scripts == Elements(calm).scripts[1:]
    assert not [character for character in data if character in "<>&" or not character.isprintable()]
    assert any("<script>alert('1')</script>" in name for name in read_data(page)["names"])
    before = page[: page.index("<script")]
    assert not [character for character in before if character != "\n" and not character.isprintable()]
    assert html.escape("<script>alert('1')</script>").replace("&#x27;", "&#39;") in before.replace("&#x27;", "&#39;")
    assert "<script>alert" not in before


def test_a_report_of_counts_alone_says_that_there_is_no_timeline() -> None:
    """It has no data, one script, which finds modules and runs alone, and shows nothing that would need others."""
    page = write(COUNT_ONLY, None)
    assert "There is no timeline: parameters were counted alone, as --count-only asks for" in page
    (script,) = Elements(page).scripts
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in page
    assert not [tag for tag, _ in Elements(page).found if tag in ("input", "button", "canvas")]


def test_a_run_that_could_not_be_traced_has_its_reason_on_the_page() -> None:
    report = dataclasses.replace(
        COUNT_ONLY, warnings=(Notice(code="not-traced", message="The step was not traced: x."),)
    )
    assert "There is no timeline. The step was not traced: x." in write(report, None)


def test_the_documentation_names_every_key_of_the_data() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "page-data.md").read_text()
    assert set(SCHEMA["properties"]) <= set(re.findall(r"`([a-z_]+)`", text))
