"""The traced training step as a section: what it takes at most, where that is, and what holds the bytes then.

Categories add up to the peak exactly, and so do modules; those that differ only in their layer share a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inspector.errors import one_line
from inspector.names import group_names
from inspector.records.memory import ACTIVATION_RULES, Peak, RunMemory, Textbook, TextbookRule
from inspector.records.recipe import Recipe
from inspector.render.document import Kind, Row, Section, Table, Tone, column, paragraph, row
from inspector.units import format_bytes, format_count, format_share

__all__ = ["build_answer_row", "build_run_section"]

_MOST_MODULES = 6
# The head of the section names what takes at least a two-hundredth of the peak.
_SMALL_SHARE = 200
# What a batch of text alone consists of; other inputs are named.
_TOKENS = {"input_ids", "labels", "attention_mask"}
_NO_MODULE = "outside any module"


def build_answer_row(training: RunMemory) -> Row:
    """Return the row of the first screen: what one training step reserves at its peak."""
    peak = training.peak_reserved_bytes
    words = f"reserved; batch {_describe_batch(training)}; parts below"
    return row(("", training.workload.label, format_count(peak), format_bytes(peak), words), tone=Tone.KEY)


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
        ("peak allocated", training.peak_allocated_bytes, "what torch.cuda.max_memory_allocated() returns"),
        ("peak reserved", training.peak_reserved_bytes, "what torch.cuda.max_memory_reserved() returns"),
        ("with the context", training.total_bytes, "what nvidia-smi would show for the process"),
        ("end of step", training.end_of_step_allocated_bytes, "still allocated when the step is over"),
    )
    rows = (
        row((what, format_count(size), format_bytes(size), words), tone=Tone.KEY if index < 2 else Tone.PLAIN)
        for index, (what, size, words) in enumerate(answers)
    )
    return Table(columns=columns, rows=tuple(rows))


def _build_circumstances(training: RunMemory, textbook: Textbook | None) -> Table:
    """Return where the peak is and what it is made of, what rules of thumb say, and what the figures hold for."""
    peak = training.peak
    place = (training.workload.phases[peak.phase], one_line(peak.module) or _NO_MODULE, _shorten_operation(peak.op))
    rules = () if textbook is None else (row(("rules of thumb", _describe_rules(textbook.rules))),)
    rows = [
        row(("peak is in", ", ".join(part for part in place if part))),
        row(("made of", ", ".join(_list_largest_parts(peak)))),
        *rules,
        row(("recipe", ", ".join(_describe_recipe(training)))),
        row(("platform", training.platform)),
        row(
            (
                "context",
                f"{_format_exact_bytes(training.overhead_bytes)}, outside the allocator: {training.overhead_source}",
            )
        ),
    ]
    inputs = training.inputs or ()
    if not {item.name for item in inputs} <= _TOKENS:
        described = (f"{one_line(item.name)} {_format_shape(item.shape)} {one_line(item.dtype)}" for item in inputs)
        rows.insert(3 + len(rules), row(("inputs", ", ".join(described))))
    return Table(columns=(column("", Kind.LABEL), column("", Kind.WORDS)), rows=tuple(rows))


def _list_largest_parts(peak: Peak) -> Iterator[str]:
    """Yield what lives at the peak, the largest first, and the sum of what is small."""
    parts = sorted(peak.breakdown.items(), key=lambda part: -part[1])
    shown = [(category, size) for category, size in parts if size * _SMALL_SHARE >= peak.allocated_bytes]
    for category, size in shown:
        yield f"{category.value.replace('_', ' ')} {format_bytes(size)}"
    rest = peak.allocated_bytes - sum(size for _, size in shown)
    if rest:
        yield f"the rest {format_bytes(rest)}"


def _describe_rules(rules: Sequence[TextbookRule]) -> str:
    """Return what rules of thumb say of the peak: one for what is held throughout, one for activations if there is."""
    static = [rule for rule in rules if rule.name not in ACTIVATION_RULES][-1]  # that of the adapter comes last
    activations = [rule for rule in rules if rule.name in ACTIVATION_RULES][:1]
    terms = " + ".join(f"{format_bytes(rule.bytes)} ({one_line(rule.formula)})" for rule in (static, *activations))
    if not activations:
        return f"{terms} before activations"
    return f"{format_bytes(static.bytes + activations[0].bytes)} = {terms}"


def _describe_batch(training: RunMemory) -> str:
    """Return the shape of a micro-batch: sequences × tokens, or images where there are no tokens."""
    recipe = training.recipe
    if recipe.seq_len is None:
        images = [item.shape for item in training.inputs or () if item.name == "pixel_values"]
        return f"{_format_shape(images[0])} pixels" if images else f"of {format_count(recipe.batch_size)}"
    return f"{_format_shape((recipe.batch_size, recipe.seq_len))} tokens"


def _format_shape(shape: Sequence[int]) -> str:
    """Return a shape in words: `2 × 1,024`."""
    return " × ".join(format_count(size) for size in shape)


def _describe_recipe(training: RunMemory) -> Iterator[str]:
    """Yield how the step runs, in a few words an option."""
    recipe = training.recipe
    padded = recipe.batch_size > 1 if recipe.padding is None else recipe.padding
    padding = "" if recipe.seq_len is None else " with padding" if padded else " without padding"
    yield f"batch {_describe_batch(training)}{padding}"
    if recipe.gradient_accumulation > 1:
        yield f"{format_count(recipe.gradient_accumulation)} micro-batches"
    if recipe.mixed_precision != "no":
        yield f"{one_line(recipe.mixed_precision)} mixed precision"
    if training.workload.trains:
        yield from _describe_update(recipe)
    is_fused = recipe.attention == "sdpa" and recipe.sdpa_backend != "auto"
    yield one_line(recipe.attention) + (f" ({one_line(recipe.sdpa_backend)})" if is_fused else "") + " attention"
    if recipe.use_cache:
        yield "KV cache filled"
    if training.workload.trains:
        yield f"{one_line(recipe.loop)} loop"
    if recipe.alloc_conf is not None:
        yield f"allocator {one_line(recipe.alloc_conf)}"


def _describe_update(recipe: Recipe) -> Iterator[str]:
    """Yield how weights are updated."""
    yield one_line(recipe.optimizer) + (f" ({one_line(recipe.optim_args)})" if recipe.optim_args else "")
    reentrant = " (reentrant)" if recipe.use_reentrant else ""
    yield f"gradient checkpointing {'on' if recipe.gradient_checkpointing else 'off'}{reentrant}"
    yield f"gradients clipped to norm {recipe.max_grad_norm:g}" if recipe.max_grad_norm else "no clipping"


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
    )
    rows = (
        row(
            (
                training.workload.phases[phase.name],
                *_format_figures(phase.peak_allocated_bytes),
                *_format_figures(phase.end_allocated_bytes),
            )
        )
        for phase in training.phases
    )
    return Table(columns=columns, rows=tuple(rows), views=(((0, 1, 2, 3, 4),), ((0, 1, 3),), ((0, 1), (0, 3))))


def _format_exact_bytes(size_bytes: int) -> str:
    """Return bytes exactly and for people, in a sentence."""
    return f"{format_count(size_bytes)} bytes ({format_bytes(size_bytes)})"


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
