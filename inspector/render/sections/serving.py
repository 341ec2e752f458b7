"""What a serving engine makes of the model: blocks of the first screen, and all its figures with their source."""

from __future__ import annotations

from collections.abc import Iterator

from inspector.errors import one_line
from inspector.records.engines.serving import CacheGroup, Engine, EngineVerdict, Serving, Span
from inspector.records.fit import Fit
from inspector.render.document import Block, Kind, Row, Section, Table, Tone, column, paragraph, row
from inspector.units import format_bytes, format_count

__all__ = ["build_serving_section", "describe_setup", "list_serving_blocks"]

_NAMES = {Engine.VLLM: "vLLM", Engine.SGLANG: "SGLang", Engine.LLAMA_CPP: "llama.cpp"}
_LENGTHS = {Engine.VLLM: "max_model_len", Engine.SGLANG: "context_length", Engine.LLAMA_CPP: "ctx_size"}
# What of the options is worth a place on the first screen, where nobody gave it.
_TOLD = frozenset(
    {
        *("max_model_len", "max_num_seqs", "gpu_memory_utilization", "context_length", "mem_fraction_static"),
        *("ctx_size", "parallel", "n_gpu_layers"),
    }
)
_MOST_CARDS = 4
_MOST_CHANGES = 3


def describe_setup(serving: Serving) -> str:
    """Return the engine, whose rules are meant, and its options as they were given or are worth saying."""
    name = _NAMES[serving.engine]
    release = serving.rules_of if serving.rules_of.startswith("llama") else f"{name} {serving.rules_of}"
    options = [
        f"{key.replace('_', '-')} {_describe_option(value)}"
        for key, value in serving.options.items()
        if key not in serving.defaults or key in _TOLD
    ]
    return f"rules of {release}; {', '.join(options)}"


def list_serving_blocks(serving: Serving, *, brief: bool) -> Iterator[Block]:
    """Yield the blocks of the first screen: the cache, the budget of the first card, and the verdicts.

    `brief` sums up what goes off the card beside weights, for where room is short.
    """
    yield _build_cache(serving)
    named = serving.verdicts
    if not named:
        return
    if len(named) <= _MOST_CARDS:
        yield _build_budget(serving, named[0], brief=brief)
    yield _build_verdicts(serving, brief=brief)


def build_serving_section(serving: Serving) -> Section:
    """Return every group of layers, the budget of every card with where each figure is from, and what is left open."""
    blocks: list[Block] = [paragraph(f"{describe_setup(serving)}.")]
    if serving.defaults:
        settings = ", ".join(
            f"{name.replace('_', '-')} {_describe_option(serving.options[name])}" for name in serving.defaults
        )
        blocks.append(paragraph(f"By default: {settings}.", Tone.QUIET))
    blocks.append(_build_groups(serving))
    for verdict in serving.verdicts:
        words = f"{_describe_cards(verdict)}: {verdict.outcome.value}, {one_line(verdict.reason)}."
        blocks += [_build_sources(serving, verdict), paragraph(words, Tone.KEY)]
        blocks += [paragraph(f"{change}.") for change in _list_changes(verdict, len(verdict.advice or ()))]
    blocks += [paragraph(note, Tone.QUIET) for note in serving.notes]
    return Section(title=f"Served by {_NAMES[serving.engine]}", blocks=tuple(blocks))


def _build_cache(serving: Serving) -> Table:
    """Return what a token and a request of the whole length take of the cache."""
    columns = (
        column("", Kind.LABEL),
        column("", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("", Kind.WORDS),
    )
    kinds = ", ".join(_describe_group(group) for group in serving.groups)
    what = "cache, all sequences" if serving.engine is Engine.LLAMA_CPP else "cache of a request"
    rows = (
        _build_size("cache of a token", serving.bytes_per_token, kinds, tone=Tone.KEY),
        _build_size(what, serving.request_bytes, _describe_length(serving)),
    )
    return Table(columns=columns, rows=rows, views=(((0, 1, 2, 3),), ((0, 2, 3),), ((0, 2),)))


def _describe_length(serving: Serving) -> str:
    """Return how many tokens that is, in llama.cpp for how many sequences."""
    options = serving.options
    words = f"{_describe_option(options[_LENGTHS[serving.engine]])} tokens"
    sequences = options.get("parallel", 1)
    if serving.engine is not Engine.LLAMA_CPP or sequences == 1:
        return words
    if options["kv_unified"]:
        return f"{words}, shared by {sequences:,}"
    return f"{words}, {options['ctx_size'] // sequences:,} for each of {sequences:,}"


def _build_size(what: str, size: int, words: str, *, tone: Tone = Tone.PLAIN) -> Row:
    """Return a row of bytes, exact and short."""
    return row((what, format_count(size), format_bytes(size), words), tone=tone)


def _describe_group(group: CacheGroup) -> str:
    """Return how many layers keep what."""
    window = f" of {group.window:,}" if group.window is not None else ""
    return f"{group.layers} {group.kind}{window}"


def _describe_page(group: CacheGroup) -> str:
    """Return how many tokens a page holds."""
    if group.page_tokens is None:
        return "state"
    return "1 token" if group.page_tokens == 1 else f"{group.page_tokens:,} tokens"


def _build_budget(serving: Serving, verdict: EngineVerdict, *, brief: bool) -> Table:
    """Return what goes off the card, and what remains for the cache or for nothing."""
    cards = _describe_cards(verdict) if verdict.count == 1 else f"each {one_line(verdict.gpu, 30)}"
    rows = [row((f"{cards}, for the engine", format_bytes(verdict.allowed_bytes), ""))]
    shown, rest = (verdict.budget[:1], verdict.budget[1:]) if brief else (verdict.budget, ())
    rows += [row((item.what, _describe_span(item.bytes), "")) for item in shown]
    if rest:
        ends = Span(low=sum(item.bytes.low for item in rest), high=sum(item.bytes.high for item in rest))
        rows.append(row((f"{len(rest)} more", _describe_span(ends), "")))
    if serving.engine is not Engine.LLAMA_CPP and verdict.cache_bytes is not None:
        rows.append(row(("remains for the cache", _describe_span(verdict.cache_bytes), ""), tone=Tone.TOTAL))
    if serving.engine is not Engine.LLAMA_CPP and verdict.tokens is not None:
        concurrency = verdict.concurrency_hundredths
        words = "" if concurrency is None else f"{_describe_times(concurrency)} of full length"
        rows.append(row(("tokens in it", _describe_counts(verdict.tokens), words), tone=Tone.KEY))
    columns = (column("", Kind.LABEL), column("", Kind.NUMBER), column("", Kind.WORDS))
    return Table(columns=columns, rows=tuple(rows))


def _build_verdicts(serving: Serving, *, brief: bool) -> Table:
    """Return the verdict on each card, or, of many that nobody named, the cards of each outcome."""
    verdicts = serving.verdicts
    columns = (column("", Kind.LABEL), column("", Kind.LABEL), column("", Kind.WORDS))
    if len(verdicts) > (1 if brief else _MOST_CARDS):
        found: dict[Fit, list[str]] = {}
        for verdict in verdicts:
            found.setdefault(verdict.outcome, []).append(_describe_cards(verdict))
        rows = [
            row(("" if index else "fits", outcome.value, ", ".join(found[outcome])), tone=Tone.KEY)
            for index, outcome in enumerate(sorted(found, key=tuple(Fit).index))
        ]
        if not brief:
            rows.append(row(("", "", "--gpu NAME shows what goes off one card"), tone=Tone.QUIET))
        return Table(columns=columns, rows=tuple(rows))
    rows = []
    for index, verdict in enumerate(verdicts):
        words = f"{verdict.outcome.value}, {one_line(verdict.reason)}"
        rows.append(row(("fits" if index == 0 else "", _describe_cards(verdict), words), tone=Tone.KEY))
        shown = (verdict.advice or ())[: 1 if brief else _MOST_CHANGES]
        rows += [row(("", "", words)) for words in _list_changes(verdict, len(shown))]
    return Table(columns=columns, rows=tuple(rows))


def _list_changes(verdict: EngineVerdict, most: int) -> Iterator[str]:
    """Yield the first changes with which all that was asked for is served, and how many more there are."""
    advice = verdict.advice or ()
    for index, item in enumerate(advice[:most], 1):
        left = len(advice) - most if index == most else 0
        more = f"; {left} more: --show serving" if left else ""
        yield f"with {one_line(item.change, 60)}: {one_line(item.reason)}{more}"


def _build_groups(serving: Serving) -> Table:
    """Return one row for each kind of layers."""
    columns = (
        column("layers", Kind.LABEL),
        column("page", Kind.NUMBER),
        column("bytes", Kind.NUMBER),
        column("a token", Kind.NUMBER),
        column("a request", Kind.NUMBER),
    )
    rows = [
        row(
            (
                _describe_group(group),
                _describe_page(group),
                format_count(group.page_bytes),
                format_count(group.bytes_per_token),
                "–" if group.request_bytes is None else format_count(group.request_bytes),
            )
        )
        for group in serving.groups
    ]
    total = ("all", "", "", format_count(serving.bytes_per_token), format_count(serving.request_bytes))
    rows.append(row(total, tone=Tone.TOTAL))
    return Table(columns=columns, rows=tuple(rows), views=(((0, 1, 2, 3, 4),), ((0, 3, 4),)))


def _build_sources(serving: Serving, verdict: EngineVerdict) -> Table:
    """Return what goes off one card, exactly, and where each figure is from."""
    rows = [
        row((one_line(verdict.gpu, 40), format_count(verdict.allowed_bytes), "", "what the engine takes of a card")),
        *(
            row((item.what, format_count(item.bytes.low), _format_high(item.bytes), one_line(item.source)))
            for item in verdict.budget
        ),
    ]
    if serving.engine is not Engine.LLAMA_CPP and verdict.cache_bytes is not None:
        cache = verdict.cache_bytes
        rows.append(row(("cache", format_count(cache.low), _format_high(cache), "remains"), tone=Tone.TOTAL))
    columns = (
        column("bytes of one card" if verdict.count == 1 else "bytes of each card", Kind.LABEL),
        column("at least", Kind.NUMBER),
        column("at most", Kind.NUMBER),
        column("from", Kind.WORDS),
    )
    return Table(columns=columns, rows=tuple(rows))


def _describe_cards(verdict: EngineVerdict) -> str:
    """Return the card, and how many of it."""
    return one_line(verdict.gpu if verdict.count == 1 else f"{verdict.count} x {verdict.gpu}", 40)


def _describe_option(value: object) -> str:
    """Return the value of an option."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return format_count(value) if isinstance(value, int) else one_line(value, 40)


def _describe_span(span: Span) -> str:
    """Return bytes, with both ends where they differ in print."""
    low, high = format_bytes(span.low), format_bytes(span.high)
    return low if low == high else f"{low} to {high}"


def _describe_counts(span: Span) -> str:
    """Return counts, with both ends where they differ."""
    return format_count(span.low) if span.is_exact else f"{format_count(span.low)} to {format_count(span.high)}"


def _describe_times(span: Span) -> str:
    """Return hundredths as a number with two decimals, with both ends where they differ."""
    low, high = (f"{value // 100:,}.{value % 100:02d}" for value in (span.low, span.high))
    return low if low == high else f"{low} to {high}"


def _format_high(span: Span) -> str:
    """Return the upper end, nothing where it is the lower one."""
    return "" if span.is_exact else format_count(span.high)
