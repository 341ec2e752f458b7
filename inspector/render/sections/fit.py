"""The verdicts as a section: on which GPUs the traced step runs, with what to spare, and what was assumed.

What the first screen says of a verdict is here, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from inspector.errors import one_line
from inspector.records.fit import Advice, Cards, Fit, Quantity, Search, Verdict
from inspector.records.steps.ranks import RankClass
from inspector.render.document import Block, Kind, Row, Section, Table, Tone, column, paragraph, row
from inspector.render.names import format_exact_bytes
from inspector.render.sections.source import format_fields
from inspector.units import format_bytes, format_count

__all__ = [
    "COMMON_CARDS",
    "build_fit_section",
    "build_search_section",
    "describe_cards",
    "describe_change",
    "describe_outcome",
    "describe_remedies",
    "describe_search",
    "shorten_reason",
]

USABLE = (
    "Usable = the memory that torch reports − the CUDA context. Headroom = usable − peak reserved where it fits; where "
    "not, what is missing: peak allocated − usable or, where free memory lies in pieces that are too small, what the "
    "request that failed lacked beside what is reserved. A step fits when "
    "the allocator finds room for every request, once it has given back what it caches."
)

COMMON_CARDS = "--gpu NAME judges one card and finds what makes it fit"

TOTAL = "Total = peak reserved + the CUDA context: what nvidia-smi would show."

TURNED_UP = (
    "Each of these was traced alone. Sizes were doubled once: --fit batch-size, seq-len or rank finds the largest."
)
# A reason on the first screen.
_BRIEF_REASON = 90
# Ranks that differ; --json has them all.
_MOST_CLASSES = 3
# What people call the quantities of --fit.
_QUANTITIES = {
    "batch-size": "batch size",
    "seq-len": "sequence length",
    "rank": "rank",
    "prompt-len": "prompt length",
    "new-tokens": "number of new tokens",
    "gpus": "number of cards",
}


def describe_outcome(verdict: Verdict, *, brief: bool = False, at_most: bool = False) -> str:
    """Return the verdict in a few words: what is left, what is not known of it, or what is missing at least.

    `brief` says with the first clause alone why nothing says so; `at_most` that less is left, as figures are a lower
    bound.
    """
    if verdict.headroom_bytes is None:
        reason = one_line(verdict.reason or "", 300)
        return f"{verdict.outcome.value}: {shorten_reason(reason) if brief else reason}"
    size = format_bytes(abs(verdict.headroom_bytes))
    if verdict.outcome is Fit.TIGHT:
        parts = ", ".join(f"{one_line(item.what, 40)} {format_bytes(item.bytes)}" for item in verdict.uncertainty)
        return f"tight, {size} to spare, {format_bytes(verdict.uncertain_bytes)} are uncertain ({parts})"
    if verdict.outcome is Fit.NO and verdict.cards is not None and _lacks_cards(verdict.cards):
        count = verdict.cards.count
        held = "one such card does" if count == 1 else f"{count:,} of these cards do"
        return f"no, {held} not hold the state of the run"
    by = f"{'at most ' if at_most else ''}{size} to spare" if verdict.fits else f"at least {size} are missing"
    if verdict.lies_in_pieces:
        by = f"what is allocated fits, but memory is fragmented: at least {size} are missing"
    margin = "" if verdict.margin_bytes is None else f", {format_bytes(verdict.margin_bytes)} kept free"
    # With the context, as the total has it: what is to spare is what the total leaves.
    size = format_bytes(verdict.usable_bytes + verdict.overhead_bytes)
    return f"{verdict.outcome.value}, {by} of {size}{margin}"


def describe_cards(verdict: Verdict, search: Search | None = None) -> str | None:
    """Return what several cards have to hold at least, None where there is one.

    After a `search` for the number of cards nothing is said of how that number is found.
    """
    cards = verdict.cards
    if cards is None:
        return None
    sharded = {"zero1": "optimizer state sharded", "zero2": "gradients and optimizer state sharded"}.get(
        cards.sharding or "", "all of it sharded"
    )
    if cards.ranks is not None:
        ranks = cards.ranks
        which = "each" if ranks.alike == ranks.world_size else "the largest"
        has_found = search is not None and search.quantity == Quantity.GPUS
        more = f"; {_describe_fewest(cards)}" if _is_searched(cards) and not has_found else ""
        # One process runs a model that `device_map` spreads; of the others there is one for each card.
        one, each = ("card", "cards") if ranks.strategy.startswith("device_map") else ("rank", "ranks (one a card)")
        differing = "; ".join(_describe_class(item, one) for item in ranks.classes[:_MOST_CLASSES])
        differing += f"; {len(ranks.classes) - _MOST_CLASSES} more kinds" if len(ranks.classes) > _MOST_CLASSES else ""
        differing += " on each node" if differing and ranks.copies is not None else ""
        return f"{which} of {ranks.world_size:,} {each}, {ranks.strategy}{more}{f'; {differing}' if differing else ''}"
    if cards.fewest_count is not None:
        over = "" if cards.fewest_count == 1 else "sharded over more, "
        return f"judged on one card alone; {over}{_describe_fewest(cards)}"
    least = "no number of these cards holds it"
    if cards.least_count is not None:
        least = "one such card" if cards.least_count == 1 else f"at least {_count_cards(cards.least_count)}"
    state = f"{format_bytes(cards.state_bytes)} of weights, gradients and optimizer state"
    if cards.sharding is None:
        return (
            f"judged on one card alone, and nothing is sharded; --fsdp would shard {state}: {least}, before activations"
        )
    return f"judged on one card alone; {state}, {sharded}: {least}, before activations"


def _is_searched(cards: Cards) -> bool:
    """Tell whether a search finds how many cards a sharded run takes."""
    is_sharded = cards.sharding is not None and cards.ranks is not None and cards.ranks.copies is None
    return is_sharded and cards.ranks is not None and " parallel over " not in cards.ranks.strategy


def _describe_fewest(cards: Cards) -> str:
    """Say how many cards a sharded run takes, or how many its state does and how the rest is found."""
    if cards.fewest_count is not None:
        count = cards.fewest_count
        return (
            "one such card is enough, with nothing sharded"
            if count == 1
            else f"at least {_count_cards(count)} are needed"
        )
    state = "" if cards.least_count is None else f"its state alone takes {_count_cards(cards.least_count)}, "
    return f"{state}--fit gpus finds how many it takes"


def _count_cards(count: int) -> str:
    """Return a number of cards in words."""
    return f"{count:,} {'card' if count == 1 else 'cards'}"


def _describe_class(ranks: RankClass, one: str) -> str:
    """Return what ranks that are alike take, of which `one` is called so."""
    if ranks.first == ranks.last:
        return f"{one} {ranks.first:,} takes {format_bytes(ranks.total_bytes)}"
    return f"{one}s {ranks.first:,} to {ranks.last:,} take {format_bytes(ranks.total_bytes)} each"


def _lacks_cards(cards: Cards) -> bool:
    """Tell whether there are fewer cards than hold the state of a run of which no rank was traced."""
    return cards.ranks is None and (cards.least_count is None or cards.least_count > cards.count)


def describe_change(advice: Advice) -> str:
    """Return a change as options of the command or as fields of its training file, and what else it makes."""
    words = advice.change if advice.in_file is None else format_fields(advice.in_file)
    return words if advice.but is None else f"{words} ({advice.but})"


def shorten_reason(reason: str) -> str:
    """Return the first clause of a reason."""
    return one_line(re.split("[;:] ", reason)[0], _BRIEF_REASON)


def describe_remedies(verdict: Verdict, most: int) -> Iterator[str]:
    """Yield the first changes with which the step fits; where it does, in one sentence what could be larger."""
    advice = verdict.advice or ()
    shown = advice[: max(most, 1)]
    more = f"; {len(advice) - len(shown)} more: --show fit" if len(advice) > len(shown) else ""
    if verdict.outcome is Fit.YES:
        larger = ", ".join(f"{describe_change(item)} ({format_bytes(item.total_bytes)})" for item in shown)
        if larger:
            yield f"still fits with {'one of ' if len(shown) > 1 else ''}{larger}"
        return
    if verdict.advice is not None and not advice and verdict.outcome is not Fit.UNKNOWN:
        yield "nothing that was tried makes it fit"
    for item in shown:
        end = more if item is shown[-1] else ""
        tightly = " tightly" if item.is_tight else ""
        yield f"fits{tightly} with {describe_change(item)}: {format_bytes(item.total_bytes)} total{end}"


def build_fit_section(verdicts: Sequence[Verdict], platform: str | None, search: Search | None) -> Section:
    """Return one row for each GPU, what its figures mean, and what is not known or was assumed of which of them.

    `platform` is what the step of the report was traced for, None where none was; `search` what was searched for.
    """
    columns = (
        column("GPU", Kind.NAME),
        column("fits", Kind.LABEL),
        column("usable", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("headroom", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
    )
    views = (((0, 1, 2, 3, 4, 5),), ((0, 1, 3, 5),), ((0, 1, 5), (0, 3)))
    table = Table(columns=columns, rows=tuple(map(_build_row, verdicts)), views=views)
    traced = (
        ""
        if platform is None
        else f" The step below is traced for {one_line(platform)}; each verdict comes from a trace of its card's own "
        "kernels."
    )
    return Section(
        title="Does it fit",
        blocks=(
            table,
            paragraph(f"{USABLE}{traced}", Tone.QUIET),
            *_list_details(verdicts, search),
            *_list_advice(verdicts),
        ),
    )


def build_search_section(search: Search) -> Section:
    """Return the largest value that fits, and every value that was traced on the way."""
    columns = (
        column(_QUANTITIES.get(search.quantity, search.quantity), Kind.NUMBER),
        column("fits", Kind.LABEL),
        column("total", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
    )
    rows = tuple(
        row(
            (
                format_count(tried.value),
                "yes" if tried.fits else "tight" if tried.is_tight else "no",
                format_count(tried.total_bytes),
                format_bytes(tried.total_bytes),
            ),
            tone=Tone.KEY if tried.value == search.value else Tone.PLAIN,
        )
        for tried in search.tried
    )
    quantity = _QUANTITIES.get(search.quantity, search.quantity)
    traces = f"{search.traces} {'trace' if search.traces == 1 else 'traces'}"
    margin = format_bytes(search.margin_bytes)
    words = f"{one_line(search.gpu)}: {describe_search(search)}; found in {traces}, {margin} left free. {TOTAL}"
    if search.value is not None:
        words += " The report is of the step with that value."
    which = "Least" if search.quantity == Quantity.GPUS else "Largest"
    return Section(title=f"{which} {quantity} that fits", blocks=(Table(columns=columns, rows=rows), paragraph(words)))


def describe_search(search: Search, *, brief: bool = False) -> str:
    """Return in a few words what a search found; `brief` leaves out how sure that is."""
    if search.quantity == Quantity.GPUS:
        return _describe_cards_searched(search)
    quantity = _QUANTITIES.get(search.quantity, search.quantity)
    if search.value is None:
        least = search.tried[0]
        size = format_bytes(least.total_bytes)
        how, only = (" with the margin", ", which fits only tightly") if least.is_tight else ("", "")
        return f"no {quantity} fits{how}: {format_count(least.value)}, the smallest tried, takes {size}{only}"
    in_file = "" if search.in_file is None else f" ({format_fields(search.in_file)})"
    found = f"{quantity} {format_count(search.value)} fits{in_file}"
    if search.fails is None:
        # Positions end a prompt; how many steps are worked out ends a generation, not what runs.
        return f"{found}, and no larger one {'is traced' if search.quantity == 'new-tokens' else 'can run'}"
    if search.fails_tightly:
        found = f"{quantity} {format_count(search.value)} fits with the margin{in_file}"
    how = " only tightly" if search.fails_tightly else " does not"
    between = "" if brief or search.fails == search.value + 1 else "; what lies between was not tried"
    return f"{found}, {format_count(search.fails)}{how}{between}"


def _describe_cards_searched(search: Search) -> str:
    """Return in a few words how many cards hold a run at least."""
    if search.value is None:
        last = search.tried[-1]
        how = " with the margin" if last.is_tight else ""
        return f"no number fits{how}: a rank of {format_count(last.value)} takes {format_bytes(last.total_bytes)}"
    cards = "1 card fits" if search.value == 1 else f"{format_count(search.value)} cards fit"
    if search.fails is None:
        return cards
    tight = any(tried.value == search.fails and tried.is_tight for tried in search.tried)
    less = "1 does" if search.fails == 1 else f"{format_count(search.fails)} do"
    return f"{cards}, {format_count(search.fails)} only tightly" if tight else f"{cards}, {less} not"


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


def _list_details(verdicts: Sequence[Verdict], search: Search | None) -> list[Block]:
    """Return why nothing is known, what several cards hold, what is not known of a card, and what was assumed."""
    found: list[tuple[str, str, str]] = []
    for verdict in verdicts:
        if verdict.reason is not None:
            found.append(("not known", verdict.gpu, verdict.reason))
        cards = describe_cards(verdict, search)
        if cards is not None:
            found.append((f"{verdict.cards.count if verdict.cards else 1} cards", verdict.gpu, cards))
        for item in verdict.uncertainty:
            found.append(("not known", verdict.gpu, f"{item.what}, {format_exact_bytes(item.bytes)}: {item.source}"))
        found += [("assumed", verdict.gpu, assumption) for assumption in verdict.assumptions]
    gpus: dict[tuple[str, str], list[str]] = {}
    for label, gpu, words in sorted(found, key=lambda item: item[0] == "assumed"):
        gpus.setdefault((label, words), []).append(gpu)
    if not gpus:
        return []
    labels = [label for label, _ in gpus]
    rows = tuple(
        row(("" if index and labels[index - 1] == label else label, f"{', '.join(names)}: {words}"))
        for index, ((label, words), names) in enumerate(gpus.items())
    )
    return [Table(columns=(column("", Kind.LABEL), column("", Kind.WORDS)), rows=rows)]


def _list_advice(verdicts: Sequence[Verdict]) -> list[Block]:
    """Return for each GPU the changes with which the step fits it, or with which it still does."""
    blocks: list[Block] = []
    for verdict in verdicts:
        if verdict.advice:
            still = "still " if verdict.outcome is Fit.YES else ""
            columns = (
                column("total", Kind.NUMBER),
                column("", Kind.NUMBER, quiet=True),
                column(f"{still}fits the {verdict.gpu} with", Kind.WORDS),
            )
            rows = tuple(
                row(
                    (
                        format_count(advice.total_bytes),
                        format_bytes(advice.total_bytes),
                        f"{describe_change(advice)}{', tightly' if advice.is_tight else ''}",
                    ),
                    tone=Tone.KEY,
                )
                for advice in verdict.advice
            )
            blocks.append(Table(columns=columns, rows=rows))
        elif verdict.advice is not None and verdict.outcome is Fit.YES:
            blocks.append(paragraph(f"On the {verdict.gpu} nothing larger that was tried fits.", Tone.QUIET))
    if any(verdict.advice for verdict in verdicts):
        blocks.append(paragraph(TOTAL, Tone.QUIET))
    if any(verdict.outcome is Fit.YES and verdict.advice for verdict in verdicts):
        blocks.append(paragraph(TURNED_UP, Tone.QUIET))
    return blocks
