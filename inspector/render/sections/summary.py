"""The first screen: what somebody who wants to train the model asks first, in at most 28 lines of 80 columns.

How much is said follows from the room that there is: fewer parts of the peak, changes and notices are shown where the
report has many, never fewer than a remainder row or a count of what was left out. What counts most comes last, next to
the prompt: peak, verdict, remedies, notices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from inspector.errors import one_line
from inspector.records.fit import Fit, Quantity, Search, Verdict
from inspector.records.memory import Peak, RunMemory, StaticRecipe
from inspector.records.notice import Notice
from inspector.records.report import Report
from inspector.records.tape import Phase
from inspector.render.document import Block, Document, Kind, Row, Section, Table, Tone, column, paragraph, row
from inspector.render.names import format_exact_bytes
from inspector.render.sections.cache import describe_cache
from inspector.render.sections.fit import (
    COMMON_CARDS,
    describe_cards,
    describe_outcome,
    describe_remedies,
    describe_search,
    shorten_reason,
)
from inspector.render.sections.recipe import describe_defaults, describe_recipe
from inspector.render.sections.serving import describe_setup, list_serving_blocks
from inspector.render.writers.glyphs import Charset
from inspector.render.writers.layout import INDENT, wrap
from inspector.render.writers.text import list_lines
from inspector.units import format_bytes, format_count, format_share, format_short_count

__all__ = ["MOST_LINES", "build_summary"]

MOST_LINES = 28
_WIDTH = 80
# Cards beyond this are the common ones, which nobody named: they are sorted by what becomes of them.
_MOST_NAMED_GPUS = 4
_LONGEST_NOTICE = 2_000
# Where a sentence ends and another begins.
_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z`])")
# Notices that change what the figures mean come first, those that somebody may well do without last.
_FIRST = (
    *("not-traced", "does-not-load", "nothing-trains", "target-unmatched", "modules-to-save-unmatched"),
    *("quantized-checkpoint", "initialised-at-random", "shape-mismatch", "experts-in-float", "experts-not-reached"),
    *("quadratic-mask", "autocast-copies", "older-release", "fields-ignored"),
    *("float16-training", "bfloat16-emulated", "seq-len-clamped", "in-batch-negatives", "gpu-ambiguous"),
)
_LAST = (
    "nothing-fits",
    "fields-not-modelled",
    "several-gpus",
    "dtype-assumed",
    "renamed",
    "torch-fallback",
    "all-layers",
    "kernels-assumed",
    "balanced-experts",
    "hash-seed",
    "unverified-version",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """How much of each list is shown: parts of a sum, changes for each card, notices and the lines of each.

    The first sentence of a notice is whole, however many lines it takes; where it may be `cut` it is not. `lists_gpus`
    says whether each card has a line of its own, `sizes` whether it says by how much a card fits where it has none.
    Without `extras` what could be turned up on a card that the step fits is left out, and the module at the peak: they
    make way before the parts do, without which nobody sees what takes the memory.
    """

    parts: int
    changes: int
    notices: int
    notice_lines: int
    cut: bool = False
    lists_gpus: bool = True
    sizes: bool = True
    extras: bool = True


_ROOMS = (
    _Room(parts=5, changes=3, notices=3, notice_lines=3),
    _Room(parts=4, changes=3, notices=3, notice_lines=2),
    _Room(parts=4, changes=2, notices=2, notice_lines=2),
    _Room(parts=4, changes=1, notices=2, notice_lines=2),
    _Room(parts=4, changes=1, notices=2, notice_lines=1),
    _Room(parts=4, changes=1, notices=1, notice_lines=1),
    _Room(parts=4, changes=1, notices=1, notice_lines=1, extras=False),
    _Room(parts=3, changes=1, notices=1, notice_lines=1, extras=False),
    _Room(parts=2, changes=1, notices=1, notice_lines=1, extras=False),
    _Room(parts=0, changes=1, notices=1, notice_lines=1, extras=False),
    _Room(parts=3, changes=1, notices=1, notice_lines=1, cut=True, extras=False),
    _Room(parts=3, changes=0, notices=1, notice_lines=1, cut=True, lists_gpus=False, extras=False),
    _Room(parts=2, changes=0, notices=1, notice_lines=1, cut=True, lists_gpus=False, sizes=False, extras=False),
    _Room(parts=0, changes=0, notices=0, notice_lines=1, lists_gpus=False, sizes=False, extras=False),
)


def build_summary(title: str, subtitle: tuple[str, ...], report: Report, footer: str, *, notices: bool) -> Document:
    """Return the first screen; `notices` says whether it has the most important ones."""
    for room in _ROOMS:
        sections = tuple(_list_sections(report, room, notices))
        document = Document(title=title, subtitle=subtitle, sections=sections, warnings=(), footer=footer)
        if sum(1 for _ in list_lines(document, _WIDTH, Charset(None))) <= MOST_LINES:
            break
    return document


def _list_sections(report: Report, room: _Room, notices: bool) -> Iterator[Section]:
    """Yield the first screen from counts to notices; none has a title."""
    blocks: list[Block | None] = [_build_counts(report), _build_facts(report)]
    if report.serving:
        blocks += list_serving_blocks(report.serving, brief=not room.lists_gpus)
    else:
        blocks += [
            _build_peak(report.memory, room) if report.memory else _build_static(report, room.parts),
            _build_fit(report, room),
        ]
    yield from (Section(title="", blocks=(block,)) for block in blocks if block is not None)
    if notices and report.warnings:
        yield Section(title="", blocks=tuple(_list_notices(report.warnings, room)))


# --- what it is -------------------------------------------------------------------------------------------------------


def _build_counts(report: Report) -> Table:
    """Return P, P_a and the total."""
    census = report.parameters
    columns = (
        column("", Kind.LABEL),
        column("", Kind.LABEL),
        column("", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("", Kind.WORDS),
    )
    rows = [_build_count("P", "parameters", census.base, tone=Tone.KEY)]
    share = f"{format_share(census.trainable, census.total)} of the total"
    if report.adapter:
        kind = one_line(report.adapter.type, 20)
        rows.append(_build_count("P_a", "trained", census.trainable, f"{share}, {kind}", tone=Tone.KEY))
    elif report.serving is None:
        is_untraced = report.static is None and any(notice.code == "not-traced" for notice in report.warnings)
        is_run_alone = is_untraced if report.memory is None else not report.memory.workload.trains
        whole = "all of them" if is_run_alone else "all of them: full fine-tuning"
        words = whole if census.trainable == census.total else share
        if _is_packed_alone(report):
            words = f"{share}: cannot be trained on packed weights without an adapter"
        label = "trainable" if is_run_alone else "trained"
        rows.append(_build_count("", label, census.trainable, words, tone=Tone.KEY))
    if census.total != census.base:
        rows.append(_build_count("", "total", census.total, "with the adapter"))
    if census.active is not None:
        words = f"{format_share(census.active, census.base)} of P, what a token uses"
        rows.append(_build_count("", "active", census.active, words))
    # The exact count before the short one, the short one before none.
    return Table(columns=columns, rows=tuple(rows), views=(((0, 1, 2, 3, 4),), ((0, 1, 2, 4),), ((0, 1, 3, 4),)))


def _is_packed_alone(report: Report) -> bool:
    """Tell whether no step is traced since the weights are packed, and nothing beside them would train."""
    quantized = report.quantization
    is_packed = quantized is not None and quantized.parameters is not None
    return is_packed and report.adapter is None and report.memory is None


def _build_count(symbol: str, what: str, count: int, words: str = "", *, tone: Tone = Tone.PLAIN) -> Row:
    """Return a count of parameters, exact and short."""
    return row((symbol, what, format_count(count), format_short_count(count), words), tone=tone)


def _build_facts(report: Report) -> Table:
    """Return what is stored, how weights are packed, and what runs, in words."""
    rows = [row(("files", ", ".join(_list_files(report))))]
    if report.quantization:
        rows.append(row(("quantized", _describe_quantization(report))))
    if report.memory:
        rows.append(row((report.memory.workload.label, describe_recipe(report.memory, brief=True))))
        if report.cache:
            rows.append(row(("KV cache", describe_cache(report.cache))))
        rows += _list_circumstances(report.memory)
    elif report.serving:
        rows.append(row(("serving", describe_setup(report.serving))))
    elif report.static is None:
        rows.append(row(("weights", format_exact_bytes(report.parameters.bytes))))
    return Table(columns=(column("", Kind.LABEL), column("", Kind.WORDS)), rows=tuple(rows))


def _list_circumstances(memory: RunMemory) -> Iterator[Row]:
    """Yield what of the recipe nobody asked for, and why the figures may be too large."""
    defaults = describe_defaults(memory)
    if defaults:
        yield row(("by default", defaults))
    bounds = [bound for bound in (memory.upper_bound, memory.lower_bound) if bound is not None]
    if bounds:
        words = shorten_reason(bounds[0]) if len(bounds) == 1 else "no bound: something takes less, and something more"
        yield row(("figures", words), tone=Tone.WARN)


def _list_files(report: Report) -> Iterator[str]:
    """Yield the size of the adapter's file and of the download."""
    if report.adapter:
        size = report.adapter.file_bytes
        yield "adapter size unknown" if size is None else f"adapter {format_exact_bytes(size)}"
    stored = report.checkpoint
    size = None if stored is None else stored.download_bytes or stored.bytes
    if report.components and all(item.stored_bytes is not None for item in report.components):
        size = sum(item.stored_bytes or 0 for item in report.components)
    yield "download size unknown" if size is None else f"download {format_exact_bytes(size)}"


def _describe_quantization(report: Report) -> str:
    """Return the method, and what the weights take packed and unpacked."""
    facts = report.quantization
    assert facts is not None
    dtype, method = one_line(report.model.dtype, 40), one_line(facts.method, 60)
    whole = f"{format_bytes(facts.dequantized_bytes)} in {dtype}"
    if facts.loaded_bytes is None:
        return f"{method}, {whole}"
    twice = ", double quant" if facts.double_quant else ""
    return f"{method}{twice}, {format_bytes(facts.loaded_bytes)} loaded, {whole}"


# --- what it takes ----------------------------------------------------------------------------------------------------


def _build_peak(memory: RunMemory, room: _Room) -> Table:
    """Return what lives at the peak, which adds up to it, and what the card then has to have."""
    peak = memory.peak
    names = {category.value.replace("_", " "): size for category, size in peak.breakdown.items() if size}
    parts = _list_parts(names, room.parts)
    rows = [
        *parts,
        _build_size(
            "peak allocated",
            peak.allocated_bytes,
            _describe_place(memory, peak, with_module=room.extras),
            tone=Tone.TOTAL if parts else Tone.KEY,
        ),
        _build_size("total", memory.total_bytes, "reserved, with the CUDA context", tone=Tone.KEY),
    ]
    return _build_sum(rows)


def _describe_place(memory: RunMemory, peak: Peak, *, with_module: bool) -> str:
    """Return where the peak is: its phase and, `with_module` and where one is at work, the module."""
    name = memory.workload.phases[peak.phase]
    the = "" if memory.workload.generates else "the "
    phase = f"while {name}" if peak.phase is Phase.LOAD else f"in {the}{name}"
    return f"{phase}: {one_line(peak.module, 30)}" if peak.module and with_module else phase


def _build_static(report: Report, most: int) -> Table | None:
    """Return what stays in memory throughout, where no step was traced."""
    if report.static is None:
        return None
    recipe: StaticRecipe = report.static.adapter or report.static.full
    names = {
        "frozen weights": recipe.frozen_bytes,
        "trained weights": recipe.trained_bytes,
        "gradients": recipe.gradients_bytes,
        f"optimizer {one_line(report.static.optimizer, 40)}": recipe.optimizer_bytes,
        "buffers": recipe.buffers_bytes,
    }
    rows = _list_parts({name: size for name, size in names.items() if size}, most)
    total = _build_size("static bytes", recipe.total_bytes, "before activations", tone=Tone.TOTAL)
    return _build_sum([*rows, total])


def _list_parts(sizes: dict[str, int], most: int) -> list[Row]:
    """Return the largest parts and, where there are more than `most`, the sum of the rest; they add up. Or none."""
    if not most:
        return []
    total = sum(sizes.values())
    ranked = sorted(sizes.items(), key=lambda part: -part[1])
    shown = ranked if len(ranked) <= most else ranked[: most - 1]
    rest = ranked[len(shown) :]
    rows = [_build_size(name, size, format_share(size, total)) for name, size in shown]
    if rest:
        size = sum(size for _, size in rest)
        rows.append(_build_size(f"{len(rest)} smaller", size, format_share(size, total)))
    return rows


def _build_size(what: str, size: int, words: str, *, tone: Tone = Tone.PLAIN) -> Row:
    """Return a row of bytes, exact and short."""
    return row((what, format_count(size), format_bytes(size), words), tone=tone)


def _build_sum(rows: Sequence[Row]) -> Table:
    """Return rows of bytes as a table."""
    columns = (
        column("", Kind.LABEL),
        column("", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("", Kind.WORDS),
    )
    return Table(columns=columns, rows=tuple(rows), views=(((0, 1, 2, 3),), ((0, 2, 3),), ((0, 2),)))


# --- whether it fits --------------------------------------------------------------------------------------------------


def _build_fit(report: Report, room: _Room) -> Table | None:
    """Return the verdicts with what to do about them, below what was searched."""
    verdicts = report.fit or ()
    if not verdicts:
        return None
    has_rows = len(verdicts) <= (_MOST_NAMED_GPUS if room.lists_gpus else 1)
    rows: list[Row] = []
    if report.search:
        gpu, found = one_line(report.search.gpu, 30), describe_search(report.search, brief=not room.sizes)
        which = "least" if report.search.quantity == Quantity.GPUS else "largest"
        rows.append(row((which, gpu, found) if has_rows else (which, "", f"{found} ({gpu})")))
    if has_rows:
        for verdict in verdicts:
            memory = report.memory
            at_most = memory is not None and memory.lower_bound is not None and memory.upper_bound is None
            rows += _list_verdict_rows(
                verdict, room, is_first=verdict is verdicts[0], at_most=at_most, search=report.search
            )
    else:
        rows += _sort_verdicts(verdicts, sizes=room.sizes and len(verdicts) <= _MOST_NAMED_GPUS)
        if len(verdicts) > _MOST_NAMED_GPUS and room.sizes and report.search is None:
            rows.append(row(("", "", COMMON_CARDS), tone=Tone.QUIET))
    columns = (column("", Kind.LABEL), column("", Kind.LABEL), column("", Kind.WORDS))
    return Table(columns=columns, rows=tuple(rows))


def _list_verdict_rows(
    verdict: Verdict, room: _Room, *, is_first: bool, at_most: bool, search: Search | None
) -> Iterator[Row]:
    """Yield the verdict on one card, and what could be changed."""
    label = "fits" if is_first else ""
    count = verdict.cards.count if verdict.cards is not None and verdict.cards.ranks is not None else 1
    gpu = one_line(verdict.gpu, 30) if count == 1 else f"{count:,} × {one_line(verdict.gpu, 30)}"
    yield row((label, gpu, describe_outcome(verdict, brief=True, at_most=at_most)), tone=Tone.KEY)
    cards = describe_cards(verdict, search)
    if cards is not None:
        yield row(("", "", cards))
    if room.extras or verdict.outcome is not Fit.YES:
        for words in describe_remedies(verdict, room.changes):
            yield row(("", "", words))


def _sort_verdicts(verdicts: Sequence[Verdict], *, sizes: bool) -> Iterator[Row]:
    """Yield the cards of each outcome, with `sizes` by how much."""
    gpus: dict[Fit, list[str]] = {}
    for verdict in verdicts:
        has_size = sizes and verdict.headroom_bytes is not None
        by = f" ({format_bytes(verdict.headroom_bytes or 0, signed=True)})" if has_size else ""
        gpus.setdefault(verdict.outcome, []).append(f"{one_line(verdict.gpu, 30)}{by}")
    for index, outcome in enumerate(sorted(gpus, key=tuple(Fit).index)):
        yield row(("" if index else "fits", outcome.value, ", ".join(gpus[outcome])), tone=Tone.KEY)


# --- notices ----------------------------------------------------------------------------------------------------------


def _list_notices(notices: Sequence[Notice], room: _Room) -> Iterator[Block]:
    """Yield the most important notices in a line or a few each, and how many more there are."""
    ranked = sorted(notices, key=_rank_notice)
    shown = ranked if len(ranked) <= room.notices else ranked[: room.notices]
    for notice in shown:
        text = notice.message if room.cut else _keep_sentences(notice.message, room.notice_lines)
        yield paragraph(text, Tone.WARN, most_lines=room.notice_lines if room.cut else None)
    if not shown:
        yield paragraph(f"Warnings: {len(ranked)}, see --show warnings", Tone.WARN)
    elif len(shown) < len(ranked):
        yield paragraph(f"and {len(ranked) - len(shown)} more: --show warnings", Tone.QUIET)


def _keep_sentences(message: str, lines: int) -> str:
    """Return the first sentence of a message, and of the next ones those that fit so many lines with it."""
    first, *others = _SENTENCE_END.split(one_line(message, _LONGEST_NOTICE))
    text = first
    for sentence in others:
        if len(wrap(f"{text} {sentence}", _WIDTH - INDENT)) > lines:
            return text
        text = f"{text} {sentence}"
    return text


def _rank_notice(notice: Notice) -> int:
    """Return the place of a notice among others."""
    if notice.code in _FIRST:
        return _FIRST.index(notice.code)
    return len(_FIRST) + (1 + _LAST.index(notice.code) if notice.code in _LAST else 0)
