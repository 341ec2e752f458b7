"""Plans and comparisons as pages: every candidate and every recipe is drawn to scale, and nothing of them runs."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import re

import pytest

from inspector.records.comparison import Comparison
from inspector.records.fit import Plan
from inspector.records.report import to_plain
from inspector.records.tape import Category
from inspector.render.page.comparison import write_comparison_page
from inspector.render.page.plan import write_plan_page
from tests.golden.render_plans import HOSTILE_COMPARISON, HOSTILE_PLAN, PLAN, THREE, TWO
from tests.golden.render_reports import HOSTILE_TEXT, QWQ_TRAINING
from tests.render.test_page import Elements


def write(record: Plan | Comparison, order: str = "recipe") -> str:
    """Return a plan or a comparison as a page."""
    stream = io.StringIO()
    if isinstance(record, Plan):
        write_plan_page(record, order, stream, command=f"inspect '{HOSTILE_TEXT}'")
    else:
        write_comparison_page(record, stream, command=f"inspect '{HOSTILE_TEXT}'")
    return stream.getvalue()


def list_widths(page: str) -> list[float]:
    """Return the widths of the parts of all bars, in percent."""
    return [float(width) for width in re.findall(r'<i style="width:([0-9.]+)%', page)]


def test_the_candidates_of_a_plan_are_bars_to_scale() -> None:
    """The largest one fills the width; what the card has is a line, where the total of a candidate that fits ends."""
    page = write(PLAN)
    traced = [row for row in PLAN.rows if row.total_bytes is not None]
    most = max(row.total_bytes or 0 for row in traced)
    assert list_widths(page) == [round(100 * (row.total_bytes or 0) / most, 2) for row in traced]
    fitting = next(row for row in traced if row.fits)
    limit = (fitting.total_bytes or 0) + (fitting.headroom_bytes or 0)
    assert f'class="limit" style="left:{100 * limit / most:.2f}%"' in page


def test_a_candidate_has_one_number_in_every_order() -> None:
    """That of its place in the plan."""
    by_peak = write(PLAN, "peak")
    for number, words in re.findall(r'class="rowlabel"><b>(\d+)</b> (.*?) <span', write(PLAN)):
        assert f"<b>{number}</b> {words} <span" in by_peak


def test_a_map_has_the_candidates_of_which_the_largest_value_was_searched() -> None:
    """Those for which none fits lie at its foot, and what was searched for none is not drawn."""
    searched = [row for row in PLAN.rows if row.largest_seq_len is not None]
    _, batch, length = write(PLAN).split("<h2>Memory and ")
    assert batch.startswith("largest batch size")
    assert length.count('r="9"') == len(searched)
    assert length.count("largest sequence length none</title>") == sum(not row.largest_seq_len for row in searched)
    assert "<svg" not in write(dataclasses.replace(PLAN, quantities=()))


def test_candidates_that_are_alike_do_not_hide_each_other_in_a_map() -> None:
    """Each stands as near to its place as there is room, with a line to it."""
    row = next(row for row in PLAN.rows if row.largest_seq_len)
    page = write(dataclasses.replace(PLAN, rows=(row,) * 24, quantities=("seq-len",)))
    places = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([0-9.]+)" cy="([0-9.]+)" r="9"', page)]
    assert len(places) == 24
    assert min(math.dist(one, other) for one, other in itertools.combinations(places, 2)) > 18
    assert page.count('stroke="#') == page.count('class="place"') == 23


@pytest.mark.parametrize("comparison", [TWO, THREE])
def test_recipes_are_bars_of_what_lives_at_their_peak(comparison: Comparison) -> None:
    """Categories that are equal in all of them, which the tables leave out, are drawn, too."""
    page = write(comparison)
    weights = QWQ_TRAINING.peak.breakdown[Category.WEIGHTS]
    traced = [recipe for recipe in comparison.recipes if recipe.breakdown]
    assert weights in [recipe.breakdown["weights"] for recipe in traced]
    most = max(sum(recipe.breakdown.values()) for recipe in traced)
    limits = {size for recipe in traced for size in recipe.usable_bytes.values() if size <= 2 * most}
    drawn = sum(size for recipe in traced for size in recipe.breakdown.values())
    assert sum(list_widths(page)) == pytest.approx(100 * drawn / max(most, *limits), abs=0.1)


def test_what_is_drawn_alone_is_in_no_json() -> None:
    plain = to_plain(THREE)
    assert {key for recipe in plain["recipes"] for key in recipe} == {"letter", "name", "fit"}


@pytest.mark.parametrize("record", [HOSTILE_PLAN, HOSTILE_COMPARISON])
def test_hostile_text_stays_text_in_pages_of_several(record: Plan | Comparison) -> None:
    """No element or attribute comes of it, no control character, and no script may run but the one of any page."""
    page = write(record)
    elements = Elements(page)
    assert len(elements.scripts) == 1
    assert page.count("&#39;sha256-") == 1
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert not [name for _, attributes in elements.found for name in attributes if name in ("src", "href")]
    assert not [character for character in page if character != "\n" and not character.isprintable()]
