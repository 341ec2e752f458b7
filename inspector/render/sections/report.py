"""Report -> Document: which facts are shown, in which order and in which words.

This is the one selection behind the text, Markdown and HTML renderers; JSON shows the report itself. Exact integers
stand beside every rounded figure. A section whose facts the report does not have is absent. Names are repeated less
often than in the records: the module tree names each module relative to the row above it, siblings share one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from inspector.errors import one_line
from inspector.records.memory import StaticBytes, Textbook
from inspector.records.model import AdapterFacts, Census, MatchedNames
from inspector.records.report import Report
from inspector.records.source import Published, ServedFrom
from inspector.render.document import Document, Kind, Paragraph, Row, Section, Table, Tone, column, paragraph, row
from inspector.render.sections.checkpoint import build_checkpoint_section
from inspector.render.sections.fit import build_fit_row, build_fit_section, build_search_section
from inspector.render.sections.names import fold_names, shorten_list
from inspector.render.sections.quantization import build_quantization_section
from inspector.render.sections.training import build_answer_row, build_run_section
from inspector.render.sections.tree import build_tree_section
from inspector.units import format_bytes, format_count, format_share, format_short_count

__all__ = ["build_report_document"]

_SERVED_FROM = {
    ServedFrom.HUB: "configuration from the Hugging Face Hub",
    ServedFrom.CACHE: "configuration from the local Hugging Face cache",
    ServedFrom.LOCAL: "configuration from this machine",
    ServedFrom.BUNDLED: "configuration from the bundled catalogue",
}

# Fields of a PEFT config that say nothing about this adapter, or that stand elsewhere in the report.
_OTHER_FIELDS = {
    "peft_type",
    "peft_version",
    "task_type",
    "base_model_name_or_path",
    "auto_mapping",
    "revision",
    "inference_mode",
    "modules_to_save",
}

NOT_INCLUDED = (
    "Activations, kernel workspaces and the CUDA context are not in these figures: a training step needs more."
)


def build_report_document(report: Report) -> Document:
    """Return everything that the report says, in the order in which people read it."""
    census = report.parameters
    sections = [_build_answer(report), _build_roles(census), _build_dtypes(census), *_list_checks(census)]
    if report.quantization:
        sections.append(build_quantization_section(report.quantization))
    if report.adapter:
        sections.append(_build_adapter(report.adapter))
    if report.checkpoint:
        sections.append(build_checkpoint_section(report.checkpoint))
    if report.memory:
        sections.append(build_run_section(report.memory, report.textbook))
    if report.memory and report.fit:
        sections.append(build_fit_section(report.fit, report.memory.platform))
    if report.search:
        sections.append(build_search_section(report.search))
    if report.static:
        sections.append(_build_static(report.static))
    if report.textbook:
        sections.append(_build_textbook(report.textbook))
    if census.tree:
        sections.append(build_tree_section(census))
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return Document(
        title=one_line(report.model.id),
        subtitle=tuple(_list_subtitle(report)),
        sections=tuple(sections),
        warnings=tuple(paragraph(notice.message).text for notice in report.warnings),
        footer=one_line(versions),
    )


def _list_subtitle(report: Report) -> Iterator[str]:
    """Say what the figures rest on: assumed sizes first, the class, its dtype, where its configuration came from."""
    yield from (one_line(notice.message, 1000) for notice in report.warnings if notice.code == "sizes-assumed")
    model = report.model
    parts = [f"{model.model_class} ({model.model_type})", model.dtype]
    if model.revision:
        parts.append(f"revision {_shorten_revision(model.revision)}")
    parts.append(_SERVED_FROM[model.source])
    yield one_line(", ".join(one_line(part) for part in parts), 1000)
    if model.adapter_id:
        yield f"adapter {one_line(model.adapter_id)}"


def _shorten_revision(revision: str) -> str:
    """Return the first characters of a commit hash; a branch or tag as it is."""
    is_commit = len(revision) == 40 and all(character in "0123456789abcdef" for character in revision)
    return revision[:8] if is_commit else one_line(revision)


# --- parameters -------------------------------------------------------------------------------------------------------


def _build_answer(report: Report) -> Section:
    """Return P, P_a and what they cost, before anything else."""
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
        rows.append(_build_count("P_a", "trained", census.trainable, f"{share}, {report.adapter.type}", tone=Tone.KEY))
    else:
        is_run_alone = report.memory is not None and not report.memory.workload.trains
        whole = "all of them" if is_run_alone else "all of them: full fine-tuning"
        words = whole if census.trainable == census.total else share
        rows.append(
            _build_count("", "trainable" if is_run_alone else "trained", census.trainable, words, tone=Tone.KEY)
        )
    rows.append(_build_count("", "total", census.total, "with the adapter" if report.adapter else ""))
    rows.append(_build_count("", "frozen", census.frozen))
    if census.active is not None:
        words = f"{format_share(census.active, census.base)} of P: a token meets few experts"
        rows.append(_build_count("", "active per token", census.active, words))
    if report.memory:
        rows.append(build_answer_row(report.memory))
        rows += [build_fit_row(report.fit)] if report.fit else []
    elif report.static:
        recipe = report.static.adapter or report.static.full
        words = "before any activation; parts below"
        cells = ("", "static bytes", format_count(recipe.total_bytes), format_bytes(recipe.total_bytes), words)
        rows.append(row(cells, tone=Tone.KEY))
    return Section(title="", blocks=(Table(columns=columns, rows=tuple(rows)),))


def _build_count(symbol: str, what: str, count: int, words: str = "", *, tone: Tone = Tone.PLAIN) -> Row:
    """Return a row of the first screen: a count of parameters, exact and short."""
    return row((symbol, what, format_count(count), format_short_count(count), words), tone=tone)


def _build_roles(census: Census) -> Section:
    """Return the parameters by role, which add up to the total."""
    columns = (
        column("role", Kind.LABEL),
        column("parameters", Kind.NUMBER),
        column("share", Kind.NUMBER, quiet=True),
        column("", Kind.BAR),
    )
    rows = [
        row(
            (role.value, format_count(count), format_share(count, census.total), ""),
            share=count / census.total if census.total else 0.0,
        )
        for role, count in census.groups.items()
    ]
    total = sum(census.groups.values())
    rows.append(row(("total", format_count(total), format_share(total, census.total), ""), tone=Tone.TOTAL))
    return Section(title="Parameters by role", blocks=(Table(columns=columns, rows=tuple(rows)),))


def _build_dtypes(census: Census) -> Section:
    """Return the bytes of the parameters by dtype, and the buffers, which are no parameters."""
    columns = (
        column("dtype", Kind.NAME),
        column("bytes", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("share", Kind.NUMBER, quiet=True),
    )
    sizes = (*census.dtypes.items(), ("total", census.bytes))
    rows = [
        row(
            (name, format_count(size), format_bytes(size), format_share(size, census.bytes)),
            tone=Tone.TOTAL if index == len(census.dtypes) else Tone.PLAIN,
        )
        for index, (name, size) in enumerate(sizes)
    ]
    buffers = f"Buffers come on top: {format_count(census.buffers)} elements, {_format_size(census.buffer_bytes)}."
    return Section(
        title="Bytes of the parameters", blocks=(Table(columns=columns, rows=tuple(rows)), paragraph(buffers))
    )


def _list_checks(census: Census) -> Iterator[Section]:
    """Yield which names share a parameter and what others counted, where there is either."""
    columns = (column("", Kind.LABEL), column("", Kind.WORDS))
    tied = [" = ".join(one_line(name) for name in names) for names in census.tied]
    rows = _label_values("tied", shorten_list(f"{names}, counted once" for names in tied))
    if census.published:
        rows += _compare_with_published(census.published, census.base)
    if rows:
        yield Section(title="Checks", blocks=(Table(columns=columns, rows=tuple(rows)),))


def _compare_with_published(published: Published, own: int) -> Iterator[Row]:
    """Set the published count beside the own one: equal, or different by so many and why."""
    difference = published.parameters - own
    count = format_count(published.parameters)
    if difference == 0:
        yield row(("published", f"{count}: ✓ equal to P"))
    else:
        words = f"{format_count(abs(difference))} {'more' if difference > 0 else 'fewer'} than P"
        yield row(("published", f"{count}: {words}"), tone=Tone.WARN if published.explanation is None else Tone.PLAIN)
        yield row(("", published.explanation or "The cause of the difference is not known."))
    yield row(("", f"{published.kind}: {published.source}"), tone=Tone.QUIET)


# --- adapter ----------------------------------------------------------------------------------------------------------


def _build_adapter(adapter: AdapterFacts) -> Section:
    """Return what the adapter is, what it hit and what it missed."""
    columns = (column("", Kind.LABEL), column("", Kind.WORDS))
    rows = [row(("type", adapter.type), tone=Tone.KEY)]
    options = _format_options(adapter.config)
    if options:
        rows.append(row(("options", options)))
    if adapter.targets:
        count = adapter.targets.matched_count
        rows.append(row(("targets", f"{format_count(count)} {'module' if count == 1 else 'modules'}")))
        rows += _list_matched("", adapter.targets)
    if adapter.modules_to_save:
        rows += _list_matched("trained whole", adapter.modules_to_save)
    size = "not known: it depends on the values of the weights"
    if adapter.file_bytes is not None:
        size = f"{_format_size(adapter.file_bytes)}: adapter_model.safetensors as PEFT saves it"
    rows.append(row(("file size", size)))
    return Section(title="Adapter", blocks=(Table(columns=columns, rows=tuple(rows)),))


def _format_options(config: Mapping[str, object]) -> str:
    """Return the options that were set, as `name=value`: the record holds those alone that differ from PEFT's defaults.

    What was turned off is among them: `init_lora_weights=False`.
    """
    shown = {name: value for name, value in config.items() if name not in _OTHER_FIELDS}
    return ", ".join(f"{one_line(name, 60)}={one_line(_convert_option(value), 200)}" for name, value in shown.items())


def _convert_option(value: object) -> object:
    """Return a list without Python's brackets, a set in the order of the alphabet, and what holds nothing as none."""
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    if value is None or value in ("", [], (), {}):
        return "none"
    return "/".join(str(item) for item in value) if isinstance(value, (list, tuple)) else value


def _list_matched(label: str, names: MatchedNames) -> Iterator[Row]:
    """Yield the names that were hit, siblings on one line, and loudly those that hit nothing."""
    matched = shorten_list(fold_names(names.matched))
    if matched or label:
        yield from _label_values(label, matched or ["none"])
    for missed in _label_values("not found", shorten_list(one_line(name) for name in names.unmatched)):
        yield row(missed.cells, tone=Tone.WARN)


def _label_values(label: str, values: Sequence[str]) -> list[Row]:
    """Return one row for each value, with the label before the first."""
    return [row((label if index == 0 else "", value)) for index, value in enumerate(values)]


def _format_size(size_bytes: int) -> str:
    """Return bytes exactly and, where that differs, for people."""
    exact = f"{format_count(size_bytes)} bytes"
    return exact if abs(size_bytes) < 1024 else f"{exact} ({format_bytes(size_bytes)})"


# --- memory -----------------------------------------------------------------------------------------------------------


def _build_static(static: StaticBytes) -> Section:
    """Return what stays in memory for the whole of training, by kind and recipe; every column adds up to its total."""
    recipes = [("full fine-tuning", static.full)]
    if static.adapter:
        recipes.append(("adapter", static.adapter))
    columns = [column("", Kind.NAME)]
    for title, _ in recipes:
        columns += [column(title, Kind.NUMBER), column("", Kind.NUMBER, quiet=True)]
    parts = (
        ("frozen weights", "frozen_bytes"),
        ("trained weights", "trained_bytes"),
        ("gradients", "gradients_bytes"),
        (f"optimizer {one_line(static.optimizer)}", "optimizer_bytes"),
        ("buffers", "buffers_bytes"),
        ("total", "total_bytes"),
    )
    rows = []
    for label, name in parts:
        sizes = [getattr(recipe, name) for _, recipe in recipes]
        cells = [cell for size in sizes for cell in (format_count(size), format_bytes(size))]
        rows.append(row((label, *cells), tone=Tone.TOTAL if label == "total" else Tone.PLAIN))
    views = (((0, 1, 2, 3, 4),), ((0, 1, 2), (0, 3, 4))) if static.adapter else ()
    table = Table(columns=tuple(columns), rows=tuple(rows), views=views)
    return Section(title="Static bytes of training", blocks=(table, paragraph(NOT_INCLUDED)))


def _build_textbook(textbook: Textbook) -> Section:
    """Return each rule of thumb as a sum: the rule, what it misses, and the exact bytes."""
    blocks: list[Table | Paragraph] = []
    for rule in textbook.rules:
        columns = (
            column(rule.name, Kind.WORDS),
            column("bytes", Kind.NUMBER),
            column("", Kind.NUMBER, quiet=True),
        )
        rows = [row((f"rule {rule.formula}", format_count(rule.bytes), format_bytes(rule.bytes)))]
        rows += [
            row((item.cause, format_count(item.bytes, signed=True), format_bytes(item.bytes, signed=True)))
            for item in rule.differences
        ]
        total = ("exact", format_count(rule.exact_bytes), format_bytes(rule.exact_bytes))
        rows.append(row(total, tone=Tone.TOTAL))
        blocks.append(Table(columns=columns, rows=tuple(rows)))
    sources = dict.fromkeys(rule.source for rule in textbook.rules)
    blocks += [paragraph(f"Source: {source}", Tone.QUIET) for source in sources]
    return Section(title="Rules of thumb, and what they miss", blocks=tuple(blocks))
