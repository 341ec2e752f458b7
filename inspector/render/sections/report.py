"""Report -> Document: which facts are shown, in which order and in which words.

This is the one selection behind the text, Markdown and HTML renderers; JSON shows the report itself. The first screen
(`summary`) answers; sections that were asked for follow it, and those whose facts the report does not have are absent.
Exact integers stand beside every rounded figure. Names are repeated less often than in the records: the module tree
names each module relative to the row above it, siblings share one line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from inspector.errors import one_line
from inspector.records.report import Report
from inspector.records.source import ServedFrom
from inspector.render.document import Document, Section, Tone, paragraph
from inspector.render.sections import SECTIONS
from inspector.render.sections.adapter import build_adapter_section
from inspector.render.sections.cache import build_cache_section, build_context_section
from inspector.render.sections.checkpoint import build_checkpoint_section
from inspector.render.sections.fit import build_fit_section, build_search_section
from inspector.render.sections.parameters import build_parameter_sections
from inspector.render.sections.quantization import build_quantization_section
from inspector.render.sections.serving import build_serving_section
from inspector.render.sections.source import build_source_sections, describe_source
from inspector.render.sections.static import build_static_section, build_textbook_section
from inspector.render.sections.summary import build_summary
from inspector.render.sections.training import build_run_section
from inspector.render.sections.tree import build_tree_section
from inspector.workloads.registry import WORKLOADS

__all__ = ["build_report_document"]

_SERVED_FROM = {
    ServedFrom.HUB: "configuration of the Hub",
    ServedFrom.CACHE: "cached configuration",
    ServedFrom.LOCAL: "local configuration",
    ServedFrom.BUNDLED: "bundled configuration",
}
# How classes of transformers end that generate text.
_GENERATING = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


def build_report_document(report: Report, shown: Collection[str] = ()) -> Document:
    """Return the first screen and the sections of `SECTIONS` that are to be shown, where the report has them."""
    found = {name: tuple(_BUILDERS[name](report)) for name in SECTIONS if name != _WARNINGS}
    listed = [name for name in SECTIONS if (bool(report.warnings) if name == _WARNINGS else found[name])]
    is_whole = all(name in shown for name in listed)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    summary = build_summary(
        one_line(report.model.id),
        tuple(_list_subtitle(report)),
        report,
        one_line(versions) if is_whole else _describe_rest(report, [name for name in listed if name not in shown]),
        notices=_WARNINGS not in shown,
    )
    sections = [section for name in SECTIONS if name in shown and name != _WARNINGS for section in found[name]]
    absent = [name for name in SECTIONS if name in shown and name not in listed]
    if absent and not is_whole:
        words = f"There is nothing to show for {', '.join(absent)} in this report."
        sections.append(Section(title="", blocks=(paragraph(words, Tone.QUIET),)))
    notices = report.warnings if _WARNINGS in shown else ()
    return Document(
        title=summary.title,
        subtitle=summary.subtitle,
        sections=(*summary.sections, *sections),
        warnings=tuple(paragraph(notice.message).text for notice in notices),
        footer=summary.footer,
    )


def _describe_rest(report: Report, names: Collection[str]) -> str:
    """Say how to see what is not shown; sections of the run and the tree are what most people want of it.

    What inference takes would double what a report costs: it is left to an option, which is named where it has one.
    """
    wanted = [name for name in names if name in (*WORKLOADS, "serving", "tree")] or list(names)[:2]
    inference = "; inference: --generate" if _could_generate(report) else ""
    return f"More: --details, --show {','.join(wanted)} (names in --help){inference}"


def _could_generate(report: Report) -> bool:
    """Tell whether this is a report of training on a class that has `generate`, by what transformers calls those."""
    is_of_training = report.static is not None if report.memory is None else report.memory.workload.trains
    return is_of_training and report.serving is None and report.model.model_class.endswith(_GENERATING)


def _list_subtitle(report: Report) -> Iterator[str]:
    """Say what the figures rest on: assumed sizes first, the class, its dtype, where its configuration came from."""
    yield from (one_line(notice.message, 1000) for notice in report.warnings if notice.code == "sizes-assumed")
    if report.source is not None:
        yield from describe_source(report.source)
    model = report.model
    parts = [f"{one_line(model.model_class, 44)} ({one_line(model.model_type, 24)})", one_line(model.dtype, 20)]
    if model.revision:
        parts.append(f"revision {_shorten_revision(model.revision)}")
    parts.append(_SERVED_FROM[model.source])
    yield one_line(", ".join(one_line(part, 80) for part in parts), 1000)
    if model.adapter_id:
        yield f"adapter {one_line(model.adapter_id, 70)}"


def _shorten_revision(revision: str) -> str:
    """Return the first characters of a commit hash; a branch or tag as it is."""
    is_commit = len(revision) == 40 and all(character in "0123456789abcdef" for character in revision)
    return revision[:8] if is_commit else one_line(revision, 24)


# --- sections by name -------------------------------------------------------------------------------------------------


def _list_run(workload: str) -> Callable[[Report], Iterator[Section]]:
    """Return what yields the section of a workload, where it is the one that was traced."""

    def build(report: Report) -> Iterator[Section]:
        if report.memory and report.memory.workload.name == workload:
            yield build_run_section(report.memory, report.textbook)

    return build


def _list_cache(report: Report) -> Iterator[Section]:
    if report.cache:
        yield build_cache_section(report.cache)


def _list_context(report: Report) -> Iterator[Section]:
    if report.context:
        yield build_context_section(report.context)


def _list_source(report: Report) -> Iterator[Section]:
    if report.source:
        yield from build_source_sections(report.source)


def _list_search(report: Report) -> Iterator[Section]:
    if report.search:
        yield build_search_section(report.search)


def _list_fit(report: Report) -> Iterator[Section]:
    if report.fit:
        yield build_fit_section(report.fit, report.memory.platform if report.memory else None, report.search)


def _list_serving(report: Report) -> Iterator[Section]:
    if report.serving:
        yield build_serving_section(report.serving)


def _list_quantization(report: Report) -> Iterator[Section]:
    if report.quantization:
        yield build_quantization_section(report.quantization)


def _list_adapter(report: Report) -> Iterator[Section]:
    if report.adapter:
        yield build_adapter_section(report.adapter)


def _list_checkpoint(report: Report) -> Iterator[Section]:
    if report.checkpoint:
        yield build_checkpoint_section(report.checkpoint)


def _list_static(report: Report) -> Iterator[Section]:
    if report.static:
        yield build_static_section(report.static)


def _list_textbook(report: Report) -> Iterator[Section]:
    if report.textbook:
        yield build_textbook_section(report.textbook)


def _list_tree(report: Report) -> Iterator[Section]:
    if report.parameters.tree:
        yield build_tree_section(report.parameters)


_WARNINGS = "warnings"
_BUILDERS: Mapping[str, Callable[[Report], Iterator[Section]]] = {
    "source": _list_source,
    "search": _list_search,
    "fit": _list_fit,
    **{name: _list_run(name) for name in WORKLOADS},
    "cache": _list_cache,
    "context": _list_context,
    "serving": _list_serving,
    "quantization": _list_quantization,
    "parameters": lambda report: build_parameter_sections(report.parameters, report.components or ()),
    "adapter": _list_adapter,
    "checkpoint": _list_checkpoint,
    "static": _list_static,
    "textbook": _list_textbook,
    "tree": _list_tree,
}
