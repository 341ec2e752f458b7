"""A report as a page: the answer, the run over time, what lives at a moment, segments, modules, all sections."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, TextIO

from inspector.errors import one_line
from inspector.memory.recording import Recording
from inspector.records.fit import Verdict
from inspector.records.report import Report
from inspector.render.document import Document, Section, Table, paragraph
from inspector.render.page.data import build_page_data
from inspector.render.page.page import list_folded_sections, list_lead_sections, write_page
from inspector.render.sections import SECTIONS
from inspector.render.sections.fit import COMMON_CARDS, describe_outcome, describe_remedies, describe_search
from inspector.render.sections.recipe import describe_recipe
from inspector.render.sections.report import build_report_document
from inspector.render.sections.tree import build_tree_section
from inspector.units import format_bytes, format_count, format_short_count

__all__ = ["write_report_page"]

# Cards beyond this are the common ones, which nobody named: each is a word.
_MOST_NAMED_GPUS = 4
_MOST_CHANGES = 4


def write_report_page(report: Report, recording: Recording | None, stream: TextIO, *, command: str | None) -> None:
    """Write a report as HTML; `recording` is its run, None where none was traced, and `command` makes it again."""
    shown = dataclasses.replace(report, parameters=dataclasses.replace(report.parameters, tree=()))
    document = build_report_document(shown, SECTIONS)
    verdicts = report.fit or ()
    named = verdicts if len(verdicts) <= _MOST_NAMED_GPUS else ()
    write_page(
        "report.html.jinja",
        document,
        stream,
        sections=list_folded_sections(document.sections),
        data=None if recording is None else build_page_data(report, recording),
        command=command,
        versions=document.footer,
        verdicts=[_describe_verdict(verdict) for verdict in named],
        cards=[_describe_card(verdict) for verdict in verdicts if verdict not in named],
        common_cards=COMMON_CARDS,
        answers=list(_list_answers(report)),
        lead=[] if report.serving is None else list_lead_sections(document.sections),
        facts=[paragraph(words).text for words in _list_facts(report)],
        missing=_explain_missing(report, document),
        tree=_nest(build_tree_section(report.parameters)) if report.parameters.tree else [],
    )


def _describe_verdict(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict on a card, with what to do about it."""
    return {
        "outcome": _name_class(verdict),
        "words": paragraph(f"{one_line(verdict.gpu, 60)}: {describe_outcome(verdict)}").text,
        "remedies": [paragraph(words).text for words in describe_remedies(verdict, _MOST_CHANGES)],
    }


def _describe_card(verdict: Verdict) -> dict[str, str]:
    """Return the verdict on a card in as few words as there are."""
    size = "" if verdict.headroom_bytes is None else f" ({format_bytes(verdict.headroom_bytes, signed=True)})"
    words = f"{verdict.outcome.value}{size}"
    return {"outcome": _name_class(verdict), "gpu": one_line(verdict.gpu, 60), "words": words}


def _name_class(verdict: Verdict) -> str:
    """Return the class of a verdict, by which it is coloured."""
    return verdict.outcome.value.replace(" ", "-")


def _list_answers(report: Report) -> Iterator[dict[str, str]]:
    """Yield what one comes for, short and exact: P, P_a, the peak, the total."""
    census, memory = report.parameters, report.memory
    yield _describe_count("P, parameters", census.base)
    if report.adapter:
        yield _describe_count("P_a, trained by the adapter", census.trainable)
    elif census.trainable != census.base:
        yield _describe_count("trainable", census.trainable)
    if memory is not None:
        yield _describe_size("peak allocated", memory.peak_allocated_bytes)
        yield _describe_size("peak reserved", memory.peak_reserved_bytes)
        yield _describe_size("total, with the CUDA context", memory.total_bytes)
    elif report.static is not None:
        yield _describe_size("static bytes", (report.static.adapter or report.static.full).total_bytes)
    else:
        yield _describe_size("weights", census.bytes)


def _list_facts(report: Report) -> Iterator[str]:
    """Yield what the figures are of: the recipe, what was searched, and why they are bounds where they are."""
    memory, search = report.memory, report.search
    if memory is not None:
        yield f"{memory.workload.label}: {describe_recipe(memory, brief=True)}"
    if search is not None:
        yield f"largest on the {search.gpu}: {describe_search(search)}"
    if memory is not None:
        yield from (f"The figures are an {bound}." for bound in (memory.upper_bound,) if bound)
        yield from (f"The figures are a {bound}." for bound in (memory.lower_bound,) if bound)
        yield "Predicted: the model's own code ran on tensors without data, on no GPU."


def _describe_count(label: str, count: int) -> dict[str, str]:
    """Return a number of parameters."""
    return {"label": label, "short": format_short_count(count), "exact": format_count(count)}


def _describe_size(label: str, size_bytes: int) -> dict[str, str]:
    """Return bytes."""
    return {"label": label, "short": format_bytes(size_bytes), "exact": f"{format_count(size_bytes)} bytes"}


def _explain_missing(report: Report, document: Document) -> str:
    """Say why there is no timeline, where there is none."""
    if report.memory is not None:
        return ""
    for notice, words in zip(report.warnings, document.warnings, strict=True):
        if notice.code == "not-traced":
            return f"There is no timeline. {words}"
    if report.serving is not None:
        return "There is no timeline: what an engine makes of a model follows from its rules, and no step is traced."
    return "There is no timeline: parameters were counted alone, as --count-only asks for, and no step was traced."


def _nest(section: Section) -> list[dict[str, Any]]:
    """Return the rows of the module tree, each with those below it."""
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    roots: list[dict[str, Any]] = []
    open_nodes: list[dict[str, Any]] = []
    for row in table.rows:
        name, kind, count, trained, _, size = row.cells
        described = {"name": name, "type": kind, "count": count, "bytes": size, "depth": row.depth}
        node = {"row": described | {"trainable": "" if trained in (count, "0") else trained}, "children": []}
        del open_nodes[row.depth :]
        siblings: Any = open_nodes[-1]["children"] if open_nodes else roots
        siblings.append(node)
        open_nodes.append(node)
    return roots
