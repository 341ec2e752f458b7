"""What the parameters are: by role and by dtype, which names share one, and what others counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inspector.errors import one_line
from inspector.records.diffusion import Component
from inspector.records.model import Census
from inspector.records.source import Published
from inspector.render.document import Kind, Row, Section, Table, Tone, column, paragraph, row
from inspector.render.names import format_exact_bytes, label_values, shorten_list
from inspector.units import format_bytes, format_count, format_share

__all__ = ["build_parameter_sections"]


def build_parameter_sections(census: Census, components: Sequence[Component] = ()) -> Iterator[Section]:
    """Yield the models of a pipeline, parameters by role, their bytes by dtype, and what they were checked against."""
    if components:
        yield _build_components(components)
    yield _build_roles(census)
    yield _build_dtypes(census)
    yield from _list_checks(census)


def _build_components(components: Sequence[Component]) -> Section:
    """Return the models of a pipeline with what each counts, and the bytes of its files."""
    columns = (
        column("part", Kind.NAME),
        column("class", Kind.NAME),
        column("parameters", Kind.NUMBER),
        column("loaded", Kind.NUMBER),
        column("files", Kind.NUMBER, quiet=True),
    )
    rows = []
    for item in components:
        counted = "not counted" if item.parameters is None else format_count(item.parameters)
        loaded = "" if item.bytes is None else format_bytes(item.bytes)
        files = "unknown" if item.stored_bytes is None else format_bytes(item.stored_bytes)
        rows.append(row((one_line(item.name, 40), one_line(item.class_name, 40), counted, loaded, files)))
    reasons = [f"{item.name}: {one_line(item.reason, 200)}." for item in components if item.reason is not None]
    words = [paragraph(reason) for reason in reasons]
    return Section(title="Models of the pipeline", blocks=(Table(columns=columns, rows=tuple(rows)), *words))


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
    words = f"Trained are {format_count(census.trainable)} of them, frozen {format_count(census.frozen)}."
    return Section(title="Parameters by role", blocks=(Table(columns=columns, rows=tuple(rows)), paragraph(words)))


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
    buffers = (
        f"Buffers come on top: {format_count(census.buffers)} elements, {format_exact_bytes(census.buffer_bytes)}."
    )
    return Section(
        title="Bytes of the parameters", blocks=(Table(columns=columns, rows=tuple(rows)), paragraph(buffers))
    )


def _list_checks(census: Census) -> Iterator[Section]:
    """Yield which names share a parameter and what others counted, where there is either."""
    columns = (column("", Kind.LABEL), column("", Kind.WORDS))
    tied = [" = ".join(one_line(name) for name in names) for names in census.tied]
    rows = label_values("tied", shorten_list(f"{names}, counted once" for names in tied))
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
