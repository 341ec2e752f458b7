"""The verdicts as a section: on which GPUs the traced step runs, with what to spare, and what was assumed.

The row of the first screen names what fits and what does not; for a single GPU it says by how much.
"""

from __future__ import annotations

from collections.abc import Sequence

from inspector.errors import one_line
from inspector.records.fit import Fit, Search, Verdict
from inspector.render.document import Kind, Paragraph, Row, Section, Table, Tone, column, paragraph, row
from inspector.units import format_bytes, format_count

__all__ = ["build_fit_row", "build_fit_section", "build_search_section"]

USABLE = (
    "Usable is the memory that torch reports less the CUDA context. Headroom is what stays unreserved of it; below "
    "zero, what is missing at least. A step fits when the allocator has room for all requests, cached blocks released."
)

TOTAL = "Total is peak reserved and the CUDA context: what nvidia-smi would show."

TURNED_UP = (
    "Each of these was traced alone. Sizes were doubled once: --fit batch-size, seq-len or rank finds the largest."
)


def build_fit_row(verdicts: Sequence[Verdict]) -> Row:
    """Return the row of the first screen: the GPUs that fit and those that do not; for one GPU by how much."""
    fitting = [one_line(verdict.gpu) for verdict in verdicts if verdict.fits]
    others = [one_line(verdict.gpu) for verdict in verdicts if not verdict.fits]
    if len(verdicts) == 1:
        words = f"{one_line(verdicts[0].gpu)}: {_describe_verdict(verdicts[0])}"
    else:
        words = ", ".join(fitting) or "none of these"
        words += f"; not {', '.join(others)}" if others else ""
    return row(("", "fits", "", "", words), tone=Tone.KEY)


def _describe_verdict(verdict: Verdict) -> str:
    """Say whether a step fits a card, and by how much."""
    if verdict.headroom_bytes is None:
        return f"{verdict.outcome.value}: {verdict.reason}{_describe_cards(verdict)}"
    size = format_bytes(abs(verdict.headroom_bytes))
    if verdict.outcome is Fit.NO:
        return f"no, {size} are missing{_describe_cards(verdict)}"
    unknown = ", ".join(f"{item.what} {format_bytes(item.bytes)}" for item in verdict.uncertainty)
    tight = f", less than what is not known ({unknown})" if verdict.outcome is Fit.TIGHT else ""
    return f"{verdict.outcome.value}, {size} to spare{tight}{_describe_cards(verdict)}"


def _describe_cards(verdict: Verdict) -> str:
    """Say what several cards have to hold at least, nothing where there is one."""
    cards = verdict.cards
    if cards is None:
        return ""
    shares = {"zero1": "its optimizer state", "zero2": "its optimizer state and gradients"}.get(
        cards.sharding or "", "all of it"
    )
    least = "no number of cards is" if cards.least_count is None else f"at least {cards.least_count} of these cards are"
    return (
        f" (on one card alone; the state is {format_bytes(cards.state_bytes)}, and with {shares} in shares {least} "
        "enough for it, before any activation)"
    )


def build_fit_section(verdicts: Sequence[Verdict], platform: str) -> Section:
    """Return one row for each GPU, what its figures mean, and what was assumed for which of them."""
    columns = (
        column("GPU", Kind.NAME),
        column("fits", Kind.LABEL),
        column("usable", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("headroom", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
    )
    views = (((0, 1, 2, 3, 4, 5),), ((0, 1, 2, 4),), ((0, 1, 4), (0, 2, 3)))
    table = Table(columns=columns, rows=tuple(map(_build_row, verdicts)), views=views)
    traced = (
        f"The step above is traced for {one_line(platform)}; each verdict comes from a trace of its card's own kernels."
    )
    return Section(
        title="Does it fit",
        blocks=(
            table,
            paragraph(f"{USABLE} {traced}", Tone.QUIET),
            *_list_assumptions(verdicts),
            *_list_advice(verdicts),
        ),
    )


def build_search_section(search: Search) -> Section:
    """Return the largest value that fits, and every value that was traced on the way."""
    columns = (
        column(search.quantity, Kind.NUMBER),
        column("fits", Kind.LABEL),
        column("total", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
    )
    rows = tuple(
        row(
            (
                format_count(tried.value),
                "yes" if tried.fits else "no",
                format_count(tried.total_bytes),
                format_bytes(tried.total_bytes),
            ),
            tone=Tone.KEY if tried.value == search.value else Tone.PLAIN,
        )
        for tried in search.tried
    )
    words = (
        f"{_describe_search(search)} Total is what nvidia-smi would show. The report is of the step with that value."
    )
    return Section(
        title=f"Largest {search.quantity} that fits", blocks=(Table(columns=columns, rows=rows), paragraph(words))
    )


def _describe_search(search: Search) -> str:
    """Say in a sentence or two what a search found."""
    gpu, traces = one_line(search.gpu), f"found in {search.traces} {'trace' if search.traces == 1 else 'traces'}"
    if search.value is None:
        least = search.tried[0]
        return (
            f"Nothing fits the {gpu}: {search.quantity} {format_count(least.value)}, the smallest tried, takes "
            f"{format_bytes(least.total_bytes)}."
        )
    value = f"{search.quantity} {format_count(search.value)} fits the {gpu}"
    if search.fails is None:
        return f"{value}, and so does all below; no larger one can run. {traces.capitalize()}."
    if search.fails == search.value + 1:
        return f"{value}, {format_count(search.fails)} does not; {traces}."
    return f"{value}, {format_count(search.fails)} does not; what lies between was not tried: {traces}, the most."


def _build_row(verdict: Verdict) -> Row:
    """Return the row of a GPU: its usable bytes and its headroom, below zero what is missing at least."""
    cells = (
        verdict.gpu,
        verdict.outcome.value,
        format_count(verdict.usable_bytes),
        format_bytes(verdict.usable_bytes),
        "–" if verdict.headroom_bytes is None else format_count(verdict.headroom_bytes, signed=True),
        "–" if verdict.headroom_bytes is None else format_bytes(verdict.headroom_bytes, signed=True),
    )
    return row(cells, tone=Tone.KEY if verdict.fits else Tone.PLAIN)


def _list_assumptions(verdicts: Sequence[Verdict]) -> list[Table | Paragraph]:
    """Return each assumption once, with the GPUs that it was made for."""
    gpus: dict[str, list[str]] = {}
    for verdict in verdicts:
        for assumption in verdict.assumptions:
            gpus.setdefault(assumption, []).append(verdict.gpu)
    if not gpus:
        return []
    rows = tuple(
        row(("" if index else "assumed", f"{', '.join(names)}: {assumption}"))
        for index, (assumption, names) in enumerate(gpus.items())
    )
    return [Table(columns=(column("", Kind.LABEL), column("", Kind.WORDS)), rows=rows)]


def _list_advice(verdicts: Sequence[Verdict]) -> list[Table | Paragraph]:
    """Return for each GPU the changes with which the step fits it, or with which it still does."""
    blocks: list[Table | Paragraph] = []
    for verdict in verdicts:
        if verdict.advice:
            still = "still " if verdict.outcome is Fit.YES else ""
            columns = (
                column("total", Kind.NUMBER),
                column("", Kind.NUMBER, quiet=True),
                column(f"{still}fits the {verdict.gpu} with", Kind.WORDS),
            )
            rows = tuple(
                row((format_count(advice.total_bytes), format_bytes(advice.total_bytes), advice.change), tone=Tone.KEY)
                for advice in verdict.advice
            )
            blocks.append(Table(columns=columns, rows=rows))
        elif verdict.advice is not None and verdict.outcome is Fit.YES:
            blocks.append(paragraph(f"Nothing of what was tried could be turned up on the {verdict.gpu}.", Tone.QUIET))
    if any(verdict.advice for verdict in verdicts):
        blocks.append(paragraph(TOTAL, Tone.QUIET))
    if any(verdict.outcome is Fit.YES and verdict.advice for verdict in verdicts):
        blocks.append(paragraph(TURNED_UP, Tone.QUIET))
    return blocks
