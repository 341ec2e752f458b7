"""A plan of several cards: the fewest for each method, then what each card takes, and what no further one takes off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from inspector.errors import one_line
from inspector.records.fit import CardCount, Fit, Floor, Method, Plan, PlanRow, Scaling
from inspector.render.document import Kind, Row, Section, Table, Tone, column, paragraph, row
from inspector.units import format_bytes, format_count

__all__ = ["build_card_sections", "describe_fewest"]

_UNKNOWN = "–"
# Parts of a floor that are named; smaller ones are the rest.
_MOST_PARTS = 4


def describe_fewest(fitting: PlanRow | None, rows: Sequence[PlanRow]) -> str:
    """Return in words on how few cards a method fits, or what each of the most lacks."""
    if fitting is not None and fitting.scaling is not None and fitting.scaling.least is not None:
        least = fitting.scaling.least
        cards = f"{least:,} {'card' if least == 1 else 'cards'}"
        spare = format_bytes(fitting.headroom_bytes or 0)
        return f"fits from {cards} on, {spare} to spare: {fitting.options or 'as it is by default'}"
    traced = [item for item in rows if item.headroom_bytes is not None]
    if not traced:
        return f"not traced: {rows[0].refused}"
    nearest = max(traced, key=lambda item: item.headroom_bytes or 0)
    assert nearest.scaling is not None, "a row of a plan of several cards has it"
    most = nearest.scaling.counts[-1].count
    by = format_bytes(abs(nearest.headroom_bytes or 0))
    if nearest.outcome is Fit.TIGHT:
        return f"fits no number of cards for sure; on {most:,} tightly, {by} to spare ({', '.join(nearest.levers)})"
    return f"does not fit {most:,} of these cards, each lacks {by} at least ({', '.join(nearest.levers)})"


def build_card_sections(plan: Plan, names: Mapping[Method, str]) -> list[Section]:
    """Return what each card takes under each strategy, what more cards do not take off, and what the columns mean."""
    present = dict.fromkeys(item.method for item in plan.rows)
    counts = _list_shown_counts(plan)
    sections = []
    for method in present:
        rows = [item for item in plan.rows if item.method is method]
        refused = [item for item in rows if item.refused is not None]
        reasons = [paragraph(f"Not traced: {', '.join(item.levers)}. {item.refused}", Tone.QUIET) for item in refused]
        table = _build_table(counts, [item for item in rows if item.refused is None])
        sections.append(Section(title=one_line(names[method]), blocks=(table, *reasons)))
    floors = [row((title, words)) for title, words in _list_floors(plan, names)]
    if floors:
        table = Table(columns=(column("", Kind.LABEL), column("", Kind.WORDS)), rows=tuple(floors))
        sections.append(Section(title="What no further card takes off", blocks=(table,)))
    words = (
        "What nvidia-smi would show at the peak of the rank that takes most, without what NCCL takes; each was traced, "
        "or lies between two equal figures. In brackets: does not fit for sure. Fewest is the least number that fits "
        f"for sure, {format_bytes(plan.margin_bytes)} left free; one card less was traced, too. --json has the bytes."
    )
    return [*sections, Section(title="What the columns mean", blocks=(paragraph(words, Tone.QUIET),))]


def _list_shown_counts(plan: Plan) -> list[int]:
    """Return the numbers of cards that have a column: both ends and the powers of two between them."""
    assert plan.gpu_counts is not None, "asked of a plan of several cards"
    least, most = plan.gpu_counts
    return sorted({least, most, *(2**power for power in range(most.bit_length()) if least < 2**power < most)})


def _build_table(counts: list[int], rows: list[PlanRow]) -> Table:
    """Return the totals of candidates, a column for each number of cards, in two tables where room is short."""
    titles = [f"{count:,} {'card' if count == 1 else 'cards'}" for count in counts]
    columns = (column("", Kind.LABEL), column("fewest", Kind.NUMBER), *(column(item, Kind.NUMBER) for item in titles))
    numbers = range(2, len(columns))
    half = 2 + (len(numbers) + 1) // 2
    parts = ((0, 1, *range(2, half)), (0, *range(half, len(columns))))
    narrow = tuple((0, 1, index) for index in numbers)
    views = ((tuple(range(len(columns))),), tuple(part for part in parts if len(part) > 1), narrow)
    return Table(columns=columns, rows=tuple(_build_row(counts, item) for item in rows), views=views)


def _build_row(counts: list[int], item: PlanRow) -> Row:
    """Return the row of a candidate."""
    assert item.scaling is not None, "a row of a plan of several cards has it"
    least = item.scaling.least
    cells = (_format_total(_find_count(item.scaling, count)) for count in counts)
    return row(
        (", ".join(item.levers), "none" if least is None else format_count(least), *cells),
        tone=Tone.PLAIN if least is None else Tone.KEY,
    )


def _find_count(scaling: Scaling, count: int) -> CardCount | None:
    """Return what was traced on so many cards, or on fewer and on more with one result."""
    below = [item for item in scaling.counts if item.count <= count]
    above = [item for item in scaling.counts if item.count >= count]
    if not below or not above:
        return None
    is_known = below[-1].count == count or (below[-1].count > 1 and below[-1].total_bytes == above[0].total_bytes)
    return below[-1] if is_known else None


def _format_total(found: CardCount | None) -> str:
    """Return a total, in brackets where it does not fit for sure."""
    if found is None:
        return _UNKNOWN
    total = format_bytes(found.total_bytes)
    return total if found.outcome is Fit.YES else f"({total})"


def _list_floors(plan: Plan, names: Mapping[Method, str]) -> Iterator[tuple[str, str]]:
    """Yield for each method and strategy the least floor: how large it is, of what, and what would lower it."""
    least: dict[tuple[Method, str], tuple[Floor, PlanRow]] = {}
    for item in plan.rows:
        if item.scaling is None or item.scaling.floor is None:
            continue
        key, floor = (item.method, item.scaling.strategy), item.scaling.floor
        if key not in least or floor.bytes < least[key][0].bytes:
            least[key] = floor, item
    for (method, _), (floor, item) in least.items():
        yield f"{names[method]}, {', '.join(item.levers)}", _describe_floor(floor, item)


def _describe_floor(floor: Floor, item: PlanRow) -> str:
    """Return a floor in words; what lowers it was tried on the most cards that were asked for."""
    named = list(floor.parts.items())[:_MOST_PARTS]
    parts = [f"{part.value.replace('_', ' ')} {format_bytes(size)}" for part, size in named]
    rest = floor.bytes - sum(size for _, size in named)
    words = f"{format_bytes(floor.bytes)} in the {floor.phase.value} pass: {', '.join(parts)}"
    if rest:
        words += f", rest {format_bytes(rest)}"
    changes = [f"{one_line(item.change)} ({format_bytes(item.peak_allocated_bytes)})" for item in floor.lowered_by]
    if not changes or item.scaling is None:
        return f"{words}; nothing that was tried lowers it"
    most = item.scaling.counts[-1]
    peak = format_bytes(most.peak_allocated_bytes)
    return f"{words}; on {most.count:,} cards the peak of {peak} is lowered by {' or '.join(changes)}"
