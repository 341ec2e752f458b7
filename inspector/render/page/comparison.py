"""A comparison as a page: what lives at the peak of each recipe by category, side by side, beside what cards have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TextIO

from inspector.errors import one_line
from inspector.records.comparison import Compared, Comparison
from inspector.render.comparison import build_comparison_document
from inspector.render.page.colors import COLORS
from inspector.render.page.page import list_folded_sections, list_lead_sections, write_page
from inspector.units import format_bytes

__all__ = ["write_comparison_page"]

# A card that has many times what any recipe takes would leave no room for the bars.
_FARTHEST_LIMIT = 2


def write_comparison_page(comparison: Comparison, stream: TextIO, *, command: str | None) -> None:
    """Write a comparison as HTML."""
    document = build_comparison_document(comparison)
    traced = [recipe for recipe in comparison.recipes if sum(_list_sizes(recipe).values())]
    most = max((sum(_list_sizes(recipe).values()) for recipe in traced), default=0)
    limits: dict[str, int] = {}
    for recipe in traced:
        limits |= {gpu: size for gpu, size in recipe.usable_bytes.items() if 0 < size <= _FARTHEST_LIMIT * most}
    whole = max([most, *limits.values()])
    write_page(
        "comparison.html.jinja",
        document,
        stream,
        lead=list_lead_sections(document.sections),
        sections=list_folded_sections(document.sections),
        command=command,
        versions=document.footer,
        bars=[_describe_bar(recipe, whole) for recipe in traced],
        limits=list(_list_limits(limits, whole)),
        categories=[
            {"name": category.value.replace("_", " "), "color": color}
            for category, color in COLORS.items()
            if any(_list_sizes(recipe).get(category.value) for recipe in traced)
        ],
    )


def _list_sizes(recipe: Compared) -> dict[str, int]:
    """Return what lives at the peak of a recipe; a report that was handed over may say anything."""
    return {name: size for name, size in recipe.breakdown.items() if size > 0}


def _describe_bar(recipe: Compared, whole: int) -> dict[str, Any]:
    """Return a recipe as a bar of its categories."""
    sizes = _list_sizes(recipe)
    return {
        "label": f"{recipe.letter}  {one_line(recipe.name, 120)}",
        "words": f"peak {format_bytes(sum(sizes.values()))}",
        "parts": [
            {
                "color": color,
                "share": f"{100 * sizes[category.value] / whole:.2f}",
                "words": f"{category.value.replace('_', ' ')}: {format_bytes(sizes[category.value])}",
            }
            for category, color in COLORS.items()
            if category.value in sizes
        ],
    }


def _list_limits(limits: dict[str, int], whole: int) -> Iterator[dict[str, str]]:
    """Yield what the allocator has on each card, as lines across the bars."""
    for gpu, size in sorted(limits.items(), key=lambda item: item[1]):
        yield {"share": f"{100 * size / whole:.2f}", "words": f"{one_line(gpu, 40)} has {format_bytes(size)}"}
