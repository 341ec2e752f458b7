"""A plan as a page: what each candidate takes beside what the card has, and how far each can be turned up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from inspector.errors import one_line
from inspector.records.fit import Fit, Plan, PlanRow
from inspector.render.page.colors import COLORS_OF_METHODS
from inspector.render.page.page import list_folded_sections, list_lead_sections, write_page
from inspector.render.plan import build_plan_document, name_methods, sort_plan
from inspector.units import format_bytes, format_count

__all__ = ["write_plan_page"]

_WIDTH, _HEIGHT = 680, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 16, 40
# The diameter of a candidate in a map, and a little.
_APART = 19.0
_TITLES = {
    "batch-size": "largest batch size",
    "seq-len": "largest sequence length",
    "prompt-len": "longest prompt",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A candidate that was traced, with its number in the pictures."""

    number: int
    row: PlanRow
    total_bytes: int
    words: str
    color: str


def write_plan_page(plan: Plan, order: str, stream: TextIO, *, command: str | None) -> None:
    """Write a plan as HTML, its candidates in one of the orders of a plan."""
    document = build_plan_document(plan, order)
    candidates = list(_list_candidates(plan, order))
    limit = _find_limit(plan, candidates)
    whole = max([limit, *(candidate.total_bytes for candidate in candidates)])
    write_page(
        "plan.html.jinja",
        document,
        stream,
        lead=list_lead_sections(document.sections),
        sections=list_folded_sections(document.sections),
        command=command,
        versions=document.footer,
        bars=[_describe_bar(candidate, whole) for candidate in candidates],
        limit={"share": _share(limit, whole), "words": f"{one_line(plan.gpu, 40)} has {format_bytes(limit)}"},
        methods=[
            {"name": name, "color": COLORS_OF_METHODS[method]}
            for method, name in name_methods(plan).items()
            if any(candidate.row.method is method for candidate in candidates)
        ],
        maps=[_draw_map(quantity, candidates, limit) for quantity in plan.quantities if quantity in _TITLES],
    )


def _list_candidates(plan: Plan, order: str) -> Iterator[_Candidate]:
    """Yield the candidates that were traced."""
    names = name_methods(plan)
    for row in sort_plan(plan, order):
        if row.total_bytes is None:
            continue
        words = one_line(f"{names[row.method]}: {', '.join(row.levers) or 'with the default settings'}", 120)
        yield _Candidate(
            number=_find_number(plan, row),
            row=row,
            total_bytes=row.total_bytes,
            words=words,
            color=COLORS_OF_METHODS[row.method],
        )


def _find_number(plan: Plan, row: PlanRow) -> int:
    """Return the number of a candidate: its place in the plan, in whichever order it is shown."""
    return next(index for index, other in enumerate(plan.rows, 1) if other is row)


def _find_limit(plan: Plan, candidates: Sequence[_Candidate]) -> int:
    """Return what a total may be at most: what the allocator can reserve, and the context beside it."""
    for candidate in candidates:
        if candidate.row.fits and candidate.row.headroom_bytes is not None:
            return candidate.total_bytes + candidate.row.headroom_bytes
    return plan.memory_bytes


def _share(part: int, whole: int) -> str:
    """Return a part in percent, for a style."""
    return f"{100 * part / whole:.2f}"


def _describe_bar(candidate: _Candidate, whole: int) -> dict[str, Any]:
    """Return a candidate as a bar."""
    row = candidate.row
    largest = [
        f"{title} {format_count(value)}"
        for title, value in (
            ("max batch", row.largest_batch_size),
            ("max seq len", row.largest_seq_len),
            ("max prompt", row.largest_prompt_len),
        )
        if value
    ]
    outcome = "" if row.outcome is None else row.outcome.value
    return {
        "number": candidate.number,
        "label": candidate.words,
        "color": candidate.color,
        "share": _share(candidate.total_bytes, whole),
        "does_not_fit": row.outcome is Fit.NO,
        "words": ", ".join([format_bytes(candidate.total_bytes), f"fits: {outcome}", *largest]),
    }


def _draw_map(quantity: str, candidates: Sequence[_Candidate], limit: int) -> dict[str, Any]:
    """Return the candidates over memory and the largest value of a quantity, on a scale that doubles; 0 is its foot."""
    name = f"largest_{quantity.replace('-', '_')}"
    searched = [(candidate, getattr(candidate.row, name)) for candidate in candidates]
    found: list[tuple[_Candidate, int]] = [(candidate, value) for candidate, value in searched if value is not None]
    most = max([limit, *(candidate.total_bytes for candidate, _ in found)]) * 1.04
    doublings = max(1, math.ceil(math.log2(max([2, *(value for _, value in found)]))))
    first = min([doublings - 1, *(int(math.log2(value)) for _, value in found if value)])

    def place_y(value: int) -> float:
        height = _HEIGHT - _TOP - _BOTTOM
        share = 0.0 if not value else (1 + math.log2(value) - first) / (1 + doublings - first)
        return round(_HEIGHT - _BOTTOM - height * share, 1)

    def place_x(size: int) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * size / most, 1)

    step = 2 ** math.ceil(math.log2(most / 6))
    places = [(place_x(candidate.total_bytes), place_y(value)) for candidate, value in found]
    return {
        "title": _TITLES[quantity],
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "right": _WIDTH - _RIGHT,
        "top": _TOP,
        "foot": _HEIGHT - _BOTTOM,
        "limit": place_x(limit),
        "x_ticks": [(place_x(size), format_bytes(size)) for size in range(0, int(most) + 1, step)],
        "y_ticks": [(place_y(0), "none fits")]
        + [(place_y(2**n), format_count(2**n)) for n in range(first, doublings + 1)],
        "points": [
            {
                "x": place[0],
                "y": place[1],
                "shown_x": shown[0],
                "shown_y": shown[1],
                "color": candidate.color,
                "number": candidate.number,
                "words": f"{candidate.words}: {format_bytes(candidate.total_bytes)}, {_TITLES[quantity]} "
                + (format_count(value) if value else "none"),
            }
            for (candidate, value), place, shown in zip(found, places, _spread(places), strict=True)
        ],
    }


def _spread(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return where each candidate is shown: at its place, or as near to it as none hides another."""
    shown: list[tuple[float, float]] = []
    for x, y in places:
        around = (
            (round(x + ring * _APART * math.cos(turn), 1), round(y + ring * _APART * math.sin(turn), 1))
            for ring in range(len(places) + 1)
            for turn in (2 * math.pi * part / (6 * ring or 1) for part in range(6 * ring or 1))
        )
        free = (
            place
            for place in around
            if _LEFT <= place[0] <= _WIDTH - _RIGHT and _TOP <= place[1] <= _HEIGHT - _BOTTOM
            if all(math.dist(place, other) >= _APART for other in shown)
        )
        shown.append(next(free, (x, y)))
    return shown
