"""The traced training step as a section: what it takes at most, where that is, and what holds the bytes then.

Categories add up to the peak exactly, and so do modules; those that differ only in their layer share a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inspector.errors import one_line
from inspector.names import group_names
from inspector.records.memory import ACTIVATION_RULES, MemoryPhase, Peak, RunMemory, Textbook, TextbookRule
from inspector.render.document import Block, Kind, Section, Table, Tone, column, paragraph, row
from inspector.render.names import format_exact_bytes
from inspector.render.sections.recipe import describe_recipe, format_shape
from inspector.units import format_bytes, format_count, format_share

__all__ = ["build_run_section"]

_MOST_MODULES = 6
# What a batch of text alone consists of; other inputs are named.
_TOKENS = {"input_ids", "labels", "attention_mask"}
_NO_MODULE = "outside any module"


def build_run_section(training: RunMemory, textbook: Textbook | None = None) -> Section:
    """Return the answers, the peak by category and by module, the phases, and what is not known.

    `textbook` is what rules of thumb would have said.
    """
    blocks = "Each tensor counts with the block that the allocator takes for it, which is rounded up."
    outside = "Optimizer state, the loss and what is made between modules stand outside any module."
    steps = training.workload.note
    if all(phase.peak_allocated_bytes < training.peak_allocated_bytes for phase in training.phases):
        steps += " The peak itself is in the first step."
    return Section(
        title=training.workload.title,
        blocks=(
            _build_answers(training),
            _build_circumstances(training, textbook),
            _build_categories(training.peak),
            paragraph(blocks, Tone.QUIET),
            _build_modules(training),
            paragraph(outside, Tone.QUIET),
            _build_phases(training),
            paragraph(steps, Tone.QUIET),
            *_list_curve(training),
            *_list_not_accounted(training),
        ),
    )


def _build_answers(training: RunMemory) -> Table:
    """Return the figures that a run on a GPU would print."""
    columns = (
        column("", Kind.LABEL),
        column("", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("", Kind.WORDS),
    )
    answers = (
        ("peak allocated", training.peak_allocated_bytes, "torch.cuda.max_memory_allocated()"),
        ("peak reserved", training.peak_reserved_bytes, "torch.cuda.max_memory_reserved()"),
        ("total", training.total_bytes, "with the CUDA context: nvidia-smi"),
        ("end of step", training.end_of_step_allocated_bytes, "still allocated when it is over"),
        *(() if training.host_bytes is None else (("on the host", training.host_bytes, "pinned memory, at most"),)),
    )
    rows = (
        row((what, format_count(size), format_bytes(size), words), tone=Tone.KEY if index < 2 else Tone.PLAIN)
        for index, (what, size, words) in enumerate(answers)
    )
    return Table(columns=columns, rows=tuple(rows))


def _build_circumstances(training: RunMemory, textbook: Textbook | None) -> Table:
    """Return where the peak is, what rules of thumb say of it, and what the figures hold for."""
    peak = training.peak
    place = (training.workload.phases[peak.phase], one_line(peak.module) or _NO_MODULE, _shorten_operation(peak.op))
    rules = () if textbook is None else (row(("rules of thumb", _describe_rules(textbook.rules))),)
    rows = [
        row(("peak is in", ", ".join(part for part in place if part))),
        *rules,
        row(("recipe", describe_recipe(training))),
        row(("platform", training.platform)),
        row(
            (
                "context",
                f"{format_exact_bytes(training.overhead_bytes)}, outside the allocator: {training.overhead_source}",
            )
        ),
    ]
    inputs = training.inputs or ()
    if not {item.name for item in inputs} <= _TOKENS:
        described = (f"{one_line(item.name)} {format_shape(item.shape)} {one_line(item.dtype)}" for item in inputs)
        rows.insert(2 + len(rules), row(("inputs", ", ".join(described))))
    return Table(columns=(column("", Kind.LABEL), column("", Kind.WORDS)), rows=tuple(rows))


def _describe_rules(rules: Sequence[TextbookRule]) -> str:
    """Return what rules of thumb say of the peak: one for what is held throughout, one for activations if there is."""
    static = [rule for rule in rules if rule.name not in ACTIVATION_RULES][-1]  # that of the adapter comes last
    activations = [rule for rule in rules if rule.name in ACTIVATION_RULES][:1]
    terms = " + ".join(f"{format_bytes(rule.bytes)} ({one_line(rule.formula)})" for rule in (static, *activations))
    if not activations:
        return f"{terms} before activations"
    return f"{format_bytes(static.bytes + activations[0].bytes)} = {terms}"


def _shorten_operation(op: str) -> str:
    """Return an operation without the namespace and the overload that every one has."""
    return one_line(op.removeprefix("aten.").removesuffix(".default"))


# --- tables that add up -----------------------------------------------------------------------------------------------


def _build_categories(peak: Peak) -> Table:
    """Return what the bytes at the peak are for; they add up to the peak."""
    columns = (
        column("alive at the peak", Kind.LABEL),
        column("bytes", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("share", Kind.NUMBER, quiet=True),
        column("", Kind.BAR),
    )
    total = peak.allocated_bytes
    rows = [
        row(
            (category.value.replace("_", " "), format_count(size), format_bytes(size), format_share(size, total), ""),
            share=size / total,
        )
        for category, size in peak.breakdown.items()
        if size
    ]
    cells = ("peak allocated", format_count(total), format_bytes(total), format_share(total, total), "")
    return Table(columns=columns, rows=(*rows, row(cells, tone=Tone.TOTAL)))


def _build_modules(training: RunMemory) -> Table:
    """Return which modules allocated the bytes at the peak, layers folded; the rows add up to the peak."""
    columns = (
        column("allocated by", Kind.NAME),
        column("modules", Kind.NUMBER, quiet=True),
        column("bytes", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
    )
    sizes = {item.name: item.bytes for item in training.top_modules}
    groups = [(name, len(members), sum(sizes[member] for member in members)) for name, members in group_names(sizes)]
    groups.sort(key=lambda group: -group[2])
    listed = groups if len(groups) <= _MOST_MODULES + 1 else groups[:_MOST_MODULES]
    rows = [
        row((name or _NO_MODULE, format_count(count) if name else "", format_count(size), format_bytes(size)))
        for name, count, size in listed
    ]
    rest = groups[len(listed) :]
    if rest:
        size = sum(size for _, _, size in rest)
        count = sum(count for _, count, _ in rest)
        rows.append(row(("other modules", format_count(count), format_count(size), format_bytes(size))))
    total = sum(sizes.values())
    rows.append(row(("peak allocated", "", format_count(total), format_bytes(total)), tone=Tone.TOTAL))
    return Table(columns=columns, rows=tuple(rows))


def _build_phases(training: RunMemory) -> Table:
    """Return the most that each phase holds and what it leaves behind."""
    columns = (
        column("phase", Kind.LABEL),
        column("at most", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("at its end", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        *((column("most in", Kind.WORDS),) if training.workload.generates else ()),
    )
    rows = (
        row(
            (
                training.workload.phases[phase.name],
                *_format_figures(phase.peak_allocated_bytes),
                *_format_figures(phase.end_allocated_bytes),
                *((_describe_place(phase),) if training.workload.generates else ()),
            )
        )
        for phase in training.phases
    )
    views = ((tuple(range(len(columns))),), ((0, 2, 4, *range(5, len(columns))),), ((0, 2, 4),))
    return Table(
        columns=columns, rows=tuple(rows), views=views if training.workload.generates else (views[0], views[2])
    )


def _describe_place(phase: MemoryPhase) -> str:
    """Return where the peak of a phase is."""
    return "" if phase.op is None else f"{one_line(phase.module or '') or _NO_MODULE}, {_shorten_operation(phase.op)}"


def _list_curve(training: RunMemory) -> Iterator[Block]:
    """Yield what a generation takes at some of its tokens, and how that grows."""
    points = training.curve or ()
    if len(points) < 2:
        return
    columns = (
        column("new tokens", Kind.NUMBER),
        column("at most", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("at its end", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("reserved", Kind.NUMBER),
    )
    rows = [
        row(
            (
                format_count(point.new_tokens),
                *_format_figures(point.peak_allocated_bytes),
                *_format_figures(point.end_allocated_bytes),
                format_bytes(point.reserved_bytes),
            )
        )
        for point in points
    ]
    yield Table(columns=columns, rows=tuple(rows), views=(((0, 1, 2, 3, 4, 5),), ((0, 2, 4, 5),)))


def _format_figures(size_bytes: int) -> tuple[str, str]:
    """Return bytes as two cells: the exact number, and a rounded one with a unit."""
    return format_count(size_bytes), format_bytes(size_bytes)


def _list_not_accounted(training: RunMemory) -> Iterator[Table]:
    """Yield what a real step may take beyond the figures, where there is anything."""
    rows = tuple(
        row(("" if index else "not included", f"{one_line(item.what)}: {one_line(item.why)}"))
        for index, item in enumerate(training.not_accounted)
    )
    if rows:
        yield Table(columns=(column("", Kind.LABEL), column("", Kind.WORDS)), rows=rows)
