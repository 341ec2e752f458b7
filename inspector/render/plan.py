"""A plan as a document, as JSON of schema `inspector-plan/1` and as CSV: a row for each candidate.

The document answers first: for each method the least harmful candidate that fits. Then come all of them, method by
method, or in one table where another order was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from inspector.errors import one_line
from inspector.records.fit import Fit, Method, Plan, PlanRow
from inspector.records.report import to_plain
from inspector.render.card_plan import build_card_sections, describe_fewest
from inspector.render.document import Document, Kind, Paragraph, Row, Section, Table, Tone, column, paragraph, row
from inspector.render.sections.source import describe_source, format_fields
from inspector.render.writers.spreadsheet import write_csv
from inspector.units import format_bytes, format_count

__all__ = ["ORDERS", "SCHEMA", "build_plan_document", "render_plan_csv", "render_plan_json", "sort_plan"]

SCHEMA = "inspector-plan/1"
_COLUMNS = (
    *("method", "options", "fits", "peak_allocated_bytes", "total_bytes", "headroom_bytes"),
    *("largest_batch_size", "largest_seq_len", "refused"),
)
_OF_CARDS = ("strategy", "cards", "least_cards")
_UNKNOWN = "–"
_GENERATING = (Method.GENERATE, Method.QUANTIZED_GENERATE)
# A candidate that changes nothing.
_AS_ASKED = "with the default settings"
_TITLES = {"batch-size": "max batch size", "seq-len": "max seq len", "prompt-len": "max prompt"}


def _sort_by_least(name: str) -> Callable[[PlanRow], Any]:
    """Return the key that puts the smallest figure first, what could not be traced last."""
    return lambda item: (getattr(item, name) is None, getattr(item, name) or 0)


def _sort_by_most(name: str) -> Callable[[PlanRow], Any]:
    """Return the key that puts the largest figure first and, of equal ones, the smallest total."""
    return lambda item: (
        getattr(item, name) is None,
        -(getattr(item, name) or 0),
        item.total_bytes or 0,
    )


# How candidates can be ordered; `recipe` leaves them as they are.
ORDERS: Mapping[str, Callable[[PlanRow], Any] | None] = {
    "recipe": None,
    "peak": _sort_by_least("peak_allocated_bytes"),
    "total": _sort_by_least("total_bytes"),
    "headroom": _sort_by_most("headroom_bytes"),
    "batch-size": _sort_by_most("largest_batch_size"),
    "seq-len": _sort_by_most("largest_seq_len"),
    "prompt-len": _sort_by_most("largest_prompt_len"),
}


def sort_plan(plan: Plan, order: str) -> tuple[PlanRow, ...]:
    """Return the candidates in one of `ORDERS`."""
    key = ORDERS[order]
    return tuple(plan.rows) if key is None else tuple(sorted(plan.rows, key=key))


def build_plan_document(plan: Plan, order: str) -> Document:
    """Return an answer for each method, all candidates in one of `ORDERS`, and what the columns mean."""
    names = name_methods(plan)
    present = list(dict.fromkeys(item.method for item in plan.rows))
    if plan.gpu_counts is not None:
        sections = build_card_sections(plan, names)
    elif order == "recipe":
        sections = [
            _build_section(
                plan,
                names[method],
                [(", ".join(item.levers) or _AS_ASKED, item) for item in plan.rows if item.method is method],
            )
            for method in present
        ]
    else:
        rows = [
            (f"{names[item.method]}: {', '.join(item.levers) or _AS_ASKED}", item) for item in sort_plan(plan, order)
        ]
        sections = [_build_section(plan, f"All candidates, by {order}", rows)]
    answers = Table(
        columns=(column("", Kind.LABEL), column("", Kind.WORDS)),
        rows=tuple(
            _build_answer(plan, names[method], [item for item in plan.rows if item.method is method], method)
            for method in present
        ),
    )
    explained = Section(title="What the columns mean", blocks=tuple(_explain_columns(plan)))
    usable = f"{plan.gpu}: {format_bytes(plan.usable_bytes)} usable of {format_bytes(plan.memory_bytes)}"
    return Document(
        title=one_line(plan.model),
        subtitle=(*(describe_source(plan.source) if plan.source else ()), one_line(usable), one_line(plan.recipe)),
        sections=(
            Section(title="", blocks=(answers,)),
            *sections,
            *(() if plan.gpu_counts is not None else (explained,)),
        ),
        warnings=tuple(paragraph(notice).text for notice in plan.warnings),
        footer=one_line(", ".join(f"{name} {version}" for name, version in plan.versions.items())),
    )


def render_plan_json(plan: Plan, order: str, stream: TextIO) -> None:
    """Write the plan to `stream` as one JSON object."""
    content = {"schema": SCHEMA, **to_plain(plan), "rows": [to_plain(item) for item in sort_plan(plan, order)]}
    json.dump(content, stream, indent=2, ensure_ascii=True)
    stream.write("\n")


def render_plan_csv(plan: Plan, order: str, stream: TextIO) -> None:
    """Write a line for each candidate below a line of titles; what is not known is empty."""
    if plan.gpu_counts is not None:
        columns = tuple(name for name in _COLUMNS if not name.startswith("largest"))
        write_csv([(*_OF_CARDS, *columns), *_list_card_lines(plan, order, columns)], stream)
        return
    rows = [to_plain(row) for row in sort_plan(plan, order)]
    lengths = {"largest_seq_len": "largest_prompt_len"} if "prompt-len" in plan.quantities else {}
    names = [lengths.get(name, name) for name in _COLUMNS]
    write_csv([names, *([row.get(name) for name in names] for row in rows)], stream)


def _list_card_lines(plan: Plan, order: str, columns: Sequence[str]) -> Iterator[list[Any]]:
    """Yield a line for each number of cards that a candidate was traced on."""
    for item in sort_plan(plan, order):
        values = to_plain(item)
        if item.scaling is None:
            yield [None, None, None, *(values.get(name) for name in columns)]
            continue
        for found in item.scaling.counts:
            of_count = {**values, **to_plain(found), "fits": found.outcome is not Fit.NO}
            line = (of_count.get(name) for name in columns)
            yield [item.scaling.strategy, found.count, item.scaling.least, *line]


def name_methods(plan: Plan) -> Mapping[Method, str]:
    """Return what people call each method with the adapters of this plan."""
    adapter = one_line(plan.adapter or "", 40)
    is_lora = adapter == "LORA"
    return {
        Method.FULL: "full",
        Method.ADAPTER: "LoRA" if is_lora else adapter,
        Method.QUANTIZED_ADAPTER: "QLoRA" if is_lora else f"{adapter}, packed",
        Method.GENERATE: "weights in float",
        Method.QUANTIZED_GENERATE: "packed weights",
    }


def _build_answer(plan: Plan, method: str, rows: Sequence[PlanRow], which: Method) -> Row:
    """Return the recommended candidate of a method, or how many bytes the nearest one lacks."""
    fitting = plan.recommend(which)
    if plan.gpu_counts is not None:
        tone = Tone.PLAIN if fitting is None else Tone.KEY
        return row((method, describe_fewest(fitting, rows)), tone=tone)
    traced = [item for item in rows if item.total_bytes is not None and item.headroom_bytes is not None]
    if fitting is not None:
        spare = f"{format_bytes(fitting.headroom_bytes or 0)} to spare{_describe_growth(fitting)}"
        sure = " tightly" if fitting.outcome is Fit.TIGHT else ""
        words = f"fits{sure} with {spare}: {_describe_change(fitting)}"
        return row((method, words), tone=Tone.KEY)
    if not traced:
        return row((method, f"not traced: {rows[0].refused}"), tone=Tone.QUIET)
    least = max(traced, key=lambda item: item.headroom_bytes or 0)
    missing = format_bytes(-(least.headroom_bytes or 0))
    smaller = next((item for item in traced if item.largest_seq_len or item.largest_prompt_len), None)
    instead = "" if smaller is None else f"; with {_describe_length(smaller)}: {_describe_change(smaller)}"
    levers = ", ".join(least.levers) or _AS_ASKED
    return row((method, f"does not fit, {missing} are missing at least ({levers}){instead}"))


def _describe_change(candidate: PlanRow) -> str:
    """Return what makes a candidate of what the plan was asked for, in a training file where there is one."""
    if candidate.in_file:
        return format_fields(candidate.in_file)
    return candidate.options or _AS_ASKED


def _describe_growth(candidate: PlanRow) -> str:
    """Return the largest batch size and sequence length of a candidate in words, each found alone."""
    words = ""
    if candidate.largest_batch_size is not None:
        words += f", batch size up to {format_count(candidate.largest_batch_size)}"
    if candidate.largest_seq_len is not None or candidate.largest_prompt_len is not None:
        words += f"{' or' if words else ','} {_describe_length(candidate, 'up to ')}"
    return words


def _describe_length(candidate: PlanRow, bound: str = "") -> str:
    """Return the largest length of a candidate in words."""
    if candidate.largest_prompt_len is not None:
        return f"prompts of {bound}{format_count(candidate.largest_prompt_len)} tokens"
    return f"sequence length {bound}{format_count(candidate.largest_seq_len or 0)}"


def _build_section(plan: Plan, title: str, rows: Sequence[tuple[str, PlanRow]]) -> Section:
    """Return a table of named candidates, and why some were not traced."""
    columns = (
        column("", Kind.WORDS),
        column("fits", Kind.LABEL),
        column("peak", Kind.NUMBER),
        column("total", Kind.NUMBER),
        column("headroom", Kind.NUMBER),
        *(column(_TITLES[quantity], Kind.NUMBER) for quantity in plan.quantities),
    )
    largest = tuple(range(5, len(columns)))
    verdict = (0, 1, 3)
    views = (
        (tuple(range(len(columns))),),
        ((*verdict, *largest),),
        (verdict, (0, *largest)) if largest else (verdict,),
        (verdict, *((0, index) for index in largest)),
    )
    table = Table(columns=columns, rows=tuple(_build_row(plan, name, item) for name, item in rows), views=views)
    refusals: dict[str, list[str]] = {}
    for name, item in rows:
        if item.refused is not None:
            refusals.setdefault(item.refused, []).append(name)
    reasons = [paragraph(f"Not traced: {'; '.join(names)}. {why}", Tone.QUIET) for why, names in refusals.items()]
    return Section(title=one_line(title), blocks=(table, *reasons))


def _build_row(plan: Plan, name: str, candidate: PlanRow) -> Row:
    """Return the row of a candidate; what was not traced is a dash."""
    if candidate.total_bytes is None or candidate.headroom_bytes is None or candidate.peak_allocated_bytes is None:
        return row((name, *[_UNKNOWN] * (4 + len(plan.quantities))), tone=Tone.QUIET)
    largest = {
        "batch-size": candidate.largest_batch_size,
        "seq-len": candidate.largest_seq_len,
        "prompt-len": candidate.largest_prompt_len,
    }
    found = [largest[quantity] for quantity in plan.quantities]
    cells = (
        name,
        candidate.outcome.value if candidate.outcome else _UNKNOWN,
        format_bytes(candidate.peak_allocated_bytes),
        format_bytes(candidate.total_bytes),
        format_bytes(candidate.headroom_bytes, signed=True),
        *(_UNKNOWN if value is None else format_count(value) for value in found),
    )
    return row(cells, tone=Tone.KEY if candidate.fits else Tone.PLAIN)


def _explain_columns(plan: Plan) -> Iterator[Paragraph]:
    """Yield what the figures are, and the options behind the words."""
    generates = any(item.method in _GENERATING for item in plan.rows)
    length = "max prompt" if generates else "max seq len"
    largest = (
        f" Max batch size and {length} (in steps of 64) are the largest that fit, each with all else as it is; 0 "
        "where not even the least fits."
        if plan.quantities
        else ""
    )
    yield paragraph(
        "Peak is what torch allocates at most, total = peak reserved + the CUDA context: what nvidia-smi would show. "
        "Headroom = usable − peak reserved where it fits, else what is missing at least: usable − peak allocated."
        f"{largest} "
        "Each candidate was traced; --json has the bytes.",
        Tone.QUIET,
    )
    if generates:
        yield paragraph(
            "Prompt in pieces is --prefill-chunk-size, cache in float8 --cache fp8, expandable segments --alloc-conf, "
            "flash_attention_2 goes with --attention, weights in nf4 are --quantization nf4. --json and --format csv "
            "have the options of each candidate.",
            Tone.QUIET,
        )
        return
    yield paragraph(
        "Names of optimizers go with --optimizer, flash_attention_2 with --attention; checkpointing is "
        "--gradient-checkpointing, adapter in the base's dtype --no-autocast-adapter-dtype. --json and --format csv "
        "have the options of each candidate.",
        Tone.QUIET,
    )
