"""Laws on the printed text: what stands under a line adds up to it, at every width and on every kind of stream."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.records.comparison import Comparison
from inspector.records.fit import Plan
from inspector.records.report import Report
from inspector.render.comparison import build_comparison_document
from inspector.render.plan import build_plan_document
from inspector.render.sections import SECTIONS
from inspector.render.sections.report import build_report_document
from inspector.render.writers.text import write_text
from inspector.units import format_bytes
from tests.golden.render_plans import PLAN, THREE, TWO
from tests.golden.render_reports import COUNT_ONLY, QWQ_LORA, REPORTS

WIDTHS = (60, 80, 100, 160, 200)
# Narrower, some figures stand there in GiB alone.
EXACT_WIDTHS = (80, 100, 160, 200)
HONEST = [name for name in REPORTS if name != "hostile"]
NUMBER = r"[-+]?\d[\d,]*"
# An exact figure is the one followed by a blank and its human form, or by the end of its column.
PAIR = re.compile(rf"({NUMBER}) +[-+]?[\d.]+ (?:B|[KMGTPE]iB)(?= |$)")


def text_of(report: Report, width: int = 100, *, color: bool = False, shown: Collection[str] = SECTIONS) -> str:
    """Return the report as text, with all sections or the ones `shown`."""
    stream = io.StringIO()
    write_text(build_report_document(report, shown), width=width, color=color, stream=stream)
    return stream.getvalue()


def section(text: str, title: str) -> list[str]:
    """Return the lines of one section, without its title."""
    lines = text.splitlines()
    below = lines[lines.index(title) + 1 :]
    return below[: next((i for i, line in enumerate(below) if line and not line.startswith(" ")), len(below))]


def number(text: str) -> int:
    """Read a number with thousands separators."""
    return int(text.replace(",", ""))


def sums(lines: list[str], total: str) -> list[tuple[list[int], list[int]]]:
    """Return for each table that ends in a row `total`, column by column, its parts and its totals."""
    found: list[tuple[list[int], list[int]]] = []
    rows: list[list[int]] = []
    for line in lines:
        values = [number(match) for match in PAIR.findall(line)]
        if not values:
            continue
        if line.startswith(f"  {total} "):
            found += [([row[column] for row in rows], [value]) for column, value in enumerate(values)]
            rows = []
        else:
            rows.append(values)
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", HONEST)
def test_printed_groups_add_up_to_the_printed_total(name: str, width: int) -> None:
    """The roles are a partition of all parameters, and the total is the report's."""
    lines = section(text_of(REPORTS[name], width), "Parameters by role")
    counts = {match[1]: number(match[2]) for line in lines if (match := re.match(rf"  (\w+) +({NUMBER}) ", line))}
    total = counts.pop("total")
    assert sum(counts.values()) == total == REPORTS[name].parameters.total


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", HONEST)
def test_printed_dtypes_add_up(name: str, width: int) -> None:
    """The bytes of all dtypes are the bytes of the parameters."""
    ((parts, (total,)),) = sums(section(text_of(REPORTS[name], width), "Bytes of the parameters"), "total")
    assert sum(parts) == total == REPORTS[name].parameters.bytes


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["qwq-lora", "deepseek-full"])
def test_printed_static_columns_add_up(name: str, width: int) -> None:
    """Each recipe's column adds up to its total, whether the recipes stand side by side or below each other."""
    static = REPORTS[name].static
    assert static is not None
    columns = sums(section(text_of(REPORTS[name], width), "Static bytes of training"), "total")
    assert [total for _, total in columns] == [
        [recipe.total_bytes] for recipe in (static.full, static.adapter) if recipe is not None
    ]
    assert all(len(parts) == 5 and [sum(parts)] == total for parts, total in columns)


def tables(lines: list[str]) -> list[list[str]]:
    """Return the lines of each block of a section: a table, and the sentence below it."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line:
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return blocks


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("title", ["alive at the peak", "allocated by"])
def test_printed_categories_and_modules_add_up_to_the_printed_peak(title: str, width: int) -> None:
    """Whatever the peak is split by, the rows are all of it."""
    training = QWQ_LORA.training
    assert training is not None
    found = tables(section(text_of(QWQ_LORA, width), "One training step"))
    (answers, split) = (found[0], next(block for block in found if block[0].startswith(f"  {title} ")))
    ((parts, (total,)),) = sums(split, "peak allocated")
    assert sum(parts) == total == training.peak_allocated_bytes
    assert len(parts) == (7 if title == "allocated by" else sum(size > 0 for size in training.peak.breakdown.values()))
    assert f"{total:,}" in answers[0] or (width not in EXACT_WIDTHS and format_bytes(total) in answers[0])


@pytest.mark.parametrize("width", EXACT_WIDTHS)
def test_a_phase_holds_no_more_at_its_end_than_at_most_and_one_of_them_has_the_peak(width: int) -> None:
    """The phases are printed in order with both figures, exactly."""
    training = QWQ_LORA.training
    assert training is not None
    found = tables(section(text_of(QWQ_LORA, width), "One training step"))
    _, *rows = next(block for block in found if block[0].startswith("  phase "))
    figures = [[number(match) for match in re.findall(r"\d[\d,]{4,}", line)] for line in rows[: len(training.phases)]]
    assert figures == [[phase.peak_allocated_bytes, phase.end_allocated_bytes] for phase in training.phases]
    assert all(most >= end for most, end in figures)
    assert max(most for most, _ in figures) == training.peak_allocated_bytes


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["qwq-lora", "deepseek-full"])
def test_printed_rules_and_their_differences_add_up_to_the_exact_bytes(name: str, width: int) -> None:
    """A rule and what it misses are the exact figure."""
    textbook = REPORTS[name].textbook
    assert textbook is not None
    columns = sums(section(text_of(REPORTS[name], width), "Rules of thumb, and what they miss"), "exact")
    assert [total for _, total in columns] == [[rule.exact_bytes] for rule in textbook.rules]
    assert all([sum(parts)] == total for parts, total in columns)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["qwq-lora", "deepseek-full", "tied-with-warnings"])
def test_printed_root_of_the_tree_is_the_total(name: str, width: int) -> None:
    """The whole model has all parameters, and the rows of one depth below it add up to no more."""
    lines = section(text_of(REPORTS[name], width), "Modules")
    (root,) = [line for line in lines if line.startswith("  whole model ")]
    match = re.search(NUMBER + r"(?= |$)", root)
    assert match is not None
    assert number(match[0]) == REPORTS[name].parameters.total
    below = [re.search(rf" ({NUMBER})(?= |$)", line) for line in lines if re.match(r" {4}\S", line)]
    assert sum(number(match[1]) for match in below if match) == REPORTS[name].parameters.total


@given(width=st.integers(40, 220), name=st.sampled_from(HONEST), shown=st.sampled_from([(), SECTIONS]))
@settings(max_examples=150, deadline=None)
def test_no_line_is_wider_than_asked(width: int, name: str, shown: Collection[str]) -> None:
    """No terminal of 40 columns or more has to break a line, and no line ends in blanks."""
    for line in text_of(REPORTS[name], width, shown=shown).splitlines():
        assert len(line) <= width
        assert line == line.rstrip()


@given(width=st.integers(40, 220))
@settings(max_examples=30, deadline=None)
def test_no_word_of_a_report_is_broken_inside(width: int) -> None:
    """A word goes to the next line whole; where it is longer than a line, it is broken behind a sign that joins."""
    words = {re.sub(r"[^\w]+$", "", word) for word in text_of(QWQ_LORA, 400).split()}
    words |= {part for word in words for part in re.split(r"[-./_,=:|({]", word)}
    lines = text_of(QWQ_LORA, width).splitlines()
    for line, below in itertools.pairwise(lines):
        last, first = (line.split() or [""])[-1], (below.split() or [""])[0]
        if len(line) > width - 4 and last.isalpha() and first.isalpha() and last not in words:
            pytest.fail(f"{last!r} was cut off from {first!r}")


@pytest.mark.parametrize("name", REPORTS)
def test_colour_adds_nothing_but_styles(name: str) -> None:
    """Without its style sequences the coloured text is the plain one, which has none."""
    plain = text_of(REPORTS[name])
    coloured = text_of(REPORTS[name], color=True)
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain != coloured


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("FORCE_COLOR", "1"), ("TERM", "dumb"), ("COLUMNS", "30")])
def test_the_environment_does_not_overrule_the_caller(
    variable: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Width and colour are what write_text is given: who calls it has read the environment already."""
    expected = text_of(QWQ_LORA)
    monkeypatch.setenv(*variable)
    assert text_of(QWQ_LORA) == expected


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
@pytest.mark.parametrize("name", REPORTS)
def test_a_stream_without_blocks_gets_ascii(name: str, encoding: str) -> None:
    """Nothing is written that the stream's encoding lacks, bars are made of `#`, and the widths stay."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    write_text(build_report_document(REPORTS[name], SECTIONS), width=80, color=False, stream=stream)
    stream.flush()
    text = raw.getvalue().decode(encoding)
    assert "###" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_sections_without_facts_are_absent() -> None:
    """A report of counts alone has no section on adapters, memory, rules or modules."""
    text = text_of(COUNT_ONLY)
    for title in ("Adapter", "Static bytes", "Rules of thumb", "Modules", "Checks", "Warnings", "static bytes"):
        assert title not in text
    for title in ("One training step", "training step", "peak"):
        assert title not in text


def test_warnings_are_announced_and_marked() -> None:
    """The first screen says that there are warnings, and each of them is one marked paragraph at the end."""
    report = REPORTS["tied-with-warnings"]
    lines = text_of(report).splitlines()
    assert "! 4 warnings at the end" in lines[:6]
    after = lines[lines.index("Warnings") + 1 :]
    assert sum(line.startswith("! ") for line in after) == len(report.warnings)


def test_a_line_below_the_static_figures_says_what_is_not_included() -> None:
    """Nobody can take the static bytes for the whole of what training needs."""
    words = " ".join(" ".join(section(text_of(QWQ_LORA), "Static bytes of training")).split())
    assert "Activations, kernel workspaces and the CUDA context are not in these figures" in words


@given(width=st.integers(40, 220), shown=st.sampled_from([TWO, THREE, PLAN]))
@settings(max_examples=100, deadline=None)
def test_no_line_of_a_plan_or_a_comparison_is_wider_than_asked(width: int, shown: Plan | Comparison) -> None:
    document = build_plan_document(shown, "recipe") if isinstance(shown, Plan) else build_comparison_document(shown)
    stream = io.StringIO()
    write_text(document, width=width, color=False, stream=stream)
    assert [line for line in stream.getvalue().splitlines() if len(line) > width] == []
