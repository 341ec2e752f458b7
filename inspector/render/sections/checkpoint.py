"""The stored weights as a section: what is downloaded, what it holds, how it fits the model, what loading takes.

The rows of files add up to the whole repository. What the source does not say is left out, or said to be unknown where
somebody would look for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from inspector.errors import one_line
from inspector.records.checkpoint import CheckpointFacts, FormatComparison, FormatDifference, LoadCost, NamedTensors
from inspector.render.document import Kind, Paragraph, Row, Section, Table, Tone, column, paragraph, row
from inspector.render.names import fold_names, shorten_list
from inspector.units import format_bytes, format_count, format_share

__all__ = ["build_checkpoint_section"]

_LONGEST_LIST = 12
_WAYS = {
    "default": "default, then moved to the GPU",
    "low_memory": "low_cpu_mem_usage=True",
    "device_map": "device_map on one GPU",
}
# Where these two take the same, as they do when files are mapped.
_EITHER_WAY = "default, also low_cpu_mem_usage"

_REASONS = {
    "not_in_model": "not in the model",
    "scales": "scales of FP8 blocks",
    "buffers": "buffers",
    "tied": "of tied parameters, stored again",
    "not_in_checkpoint": "not stored",
    "other_shape": "by another shape",
    "unexplained": "not explained",
}

UNKNOWN_SIZES = "File sizes are not known: this source has the configuration only."
NO_WEIGHTS = "There are no weights that from_pretrained would load."
PICKLES = "Pickles are not opened: reading one means executing it. Only the sizes of the files are known."
ON_TOP = (
    "At most, with transformers 5, which maps the files into memory. The system may keep parts of them beside this "
    "while memory is free."
)


def build_checkpoint_section(facts: CheckpointFacts) -> Section:
    """Return what is known of the download and of loading it."""
    blocks: list[Table | Paragraph] = []
    if facts.repository_files is not None or facts.files is not None:
        blocks += [table for table in [_build_files(facts)] if table.rows]
        if facts.format is None:
            blocks.append(paragraph(NO_WEIGHTS))
    else:
        blocks.append(paragraph(UNKNOWN_SIZES))
    rows = tuple(_list_content(facts))
    if rows:
        blocks.append(Table(columns=(column("", Kind.LABEL), column("", Kind.WORDS)), rows=rows))
    if facts.format == "pickle":
        blocks.append(paragraph(PICKLES))
    if facts.loading:
        blocks += [_build_loading(facts), paragraph(ON_TOP, Tone.QUIET)]
    return Section(title="Download and loading", blocks=tuple(blocks))


def _build_files(facts: CheckpointFacts) -> Table:
    """Return what is downloaded and what is not; where all sizes are known, the rows add up to the repository."""
    columns = (
        column("", Kind.LABEL),
        column("files", Kind.NUMBER),
        column("bytes", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("", Kind.WORDS),
    )
    rows: list[Row] = []
    if facts.files is not None and facts.bytes is not None:
        by = "llama.cpp" if facts.format == "gguf" else "from_pretrained"
        words = f"{facts.format}, downloaded by {by}"
        rows.append(_build_file_row("weights", facts.files, facts.bytes, words, Tone.KEY))
        small = (facts.download_bytes or facts.bytes) - facts.bytes
        if small or facts.format != "gguf":
            rows.append(_build_file_row("small files", None, small, "configuration and index, downloaded with them"))
    for item in facts.left_out or ():
        rows.append(_build_file_row(item.kind, item.files, item.bytes, "not downloaded by from_pretrained"))
    if facts.repository_bytes is not None:
        rows.append(_build_file_row("repository", facts.repository_files, facts.repository_bytes, "", Tone.TOTAL))
    return Table(columns=columns, rows=tuple(rows), views=(((0, 1, 2, 3, 4),), ((0, 1, 3, 4),)))


def _build_file_row(label: str, files: int | None, size: int, words: str, tone: Tone = Tone.PLAIN) -> Row:
    count = "" if files is None else format_count(files)
    return row((label, count, format_count(size), format_bytes(size), words), tone=tone)


def _list_content(facts: CheckpointFacts) -> Iterator[Row]:
    """Yield what is stored, and what of it the model has."""
    if facts.largest_file_bytes is not None and facts.files != 1:
        size = facts.largest_file_bytes
        yield row(("largest file", f"{format_count(size)} bytes, {format_bytes(size)}"))
    if facts.parameters is not None:
        tensors = f" in {format_count(facts.tensors)} tensors" if facts.tensors is not None else ""
        yield row(("stored", f"{format_count(facts.parameters)} elements{tensors}"))
    if facts.beyond_parameters is not None:
        yield _compare_with_parameters(facts.beyond_parameters)
    if facts.dtypes:
        total = sum(facts.dtypes.values())
        parts = (f"{one_line(name)} {format_share(count, total)}" for name, count in facts.dtypes.items())
        yield row(("dtypes", ", ".join(parts)))
    for item in facts.variants or ():
        dtypes = f" of {', '.join(one_line(name) for name in item.dtypes)}" if item.dtypes else ""
        words = f"{one_line(item.name, 60)}: {format_count(item.bytes)} bytes in {_count_files(item.files)}{dtypes}"
        yield row(("variant", words))
    if facts.by_format is not None:
        yield from _list_format(facts.by_format)
    if facts.not_in_checkpoint is not None and facts.not_in_model is not None:
        yield from _list_side("not in the model", facts.not_in_model, "not loaded", Tone.PLAIN)
        yield from _list_side("not stored", facts.not_in_checkpoint, "drawn at random", Tone.WARN)
        if not facts.not_in_checkpoint.tensors and not facts.mismatched:
            yield row(("fits", "✓ every tensor of the model is stored, in its shape"))
    for difference in (facts.mismatched or ())[:_LONGEST_LIST]:
        shapes = f"{list(difference.stored)} stored, {list(difference.model)} in the model"
        yield row(("other shape", f"{one_line(difference.name, 200)}: {shapes}"), tone=Tone.WARN)
    if len(facts.mismatched or ()) > _LONGEST_LIST:
        hidden = len(facts.mismatched or ()) - _LONGEST_LIST
        yield row(("", f"and {format_count(hidden)} more (JSON lists them all)"))


def _compare_with_parameters(beyond: Mapping[str, int]) -> Row:
    """Set the stored elements beside P: equal, or different by so many and why."""
    if not beyond:
        return row(("", "✓ as many as P"))
    parts = ", ".join(f"{format_count(count, signed=True)} {_REASONS[reason]}" for reason, count in beyond.items())
    tone = Tone.WARN if "unexplained" in beyond else Tone.PLAIN
    return row(("", f"{format_count(sum(beyond.values()), signed=True)} beside P: {parts}"), tone=tone)


def _list_format(comparison: FormatComparison) -> Iterator[Row]:
    """Yield the bytes in the headers beside those of the format, and the tensors that are stored otherwise."""
    stored = format_count(comparison.stored_bytes)
    beyond = comparison.stored_bytes - comparison.expected_bytes - comparison.varying_bytes
    text = ""
    if comparison.varying_bytes:
        text = f", {format_count(comparison.varying_bytes)} of them text whose length depends on data"
    method = one_line(comparison.method)
    if not comparison.differences:
        yield row(("by format", f"✓ {stored} bytes in tensors{text}: every one as {method} makes it"))
        return
    words = f"{stored} bytes in tensors{text}, {format_count(beyond, signed=True)} beside what {method} makes"
    yield row(("by format", words), tone=Tone.WARN)
    for difference in comparison.differences[:_LONGEST_LIST]:
        yield row(("", _describe_difference(difference)), tone=Tone.WARN)
    hidden = len(comparison.differences) - _LONGEST_LIST
    if hidden > 0:
        yield row(("", f"and {format_count(hidden)} more (JSON lists them all)"))


def _describe_difference(difference: FormatDifference) -> str:
    """Say which tensors are stored otherwise, and how."""
    names = [one_line(name, 200) for name in difference.names]
    name = names[0] if len(names) == 1 else f"{names[0]} and {format_count(len(names) - 1)} more"
    count = "" if difference.tensors == 1 else f" ({format_count(difference.tensors)} tensors)"
    sides = [
        "not " + word if shape is None else f"{one_line(dtype or '')} {list(shape)} {word}"
        for word, dtype, shape in (
            ("stored", difference.stored_dtype, difference.stored_shape),
            ("expected", difference.expected_dtype, difference.expected_shape),
        )
    ]
    beyond = difference.stored_bytes - difference.expected_bytes
    return f"{name}{count}: {', '.join(sides)}, {format_count(beyond, signed=True)} bytes"


def _list_side(label: str, names: NamedTensors, words: str, tone: Tone) -> Iterator[Row]:
    """Yield the tensors that one side only has: how many, and their names."""
    if not names.tensors:
        return
    count = f"{format_count(names.tensors)} {'tensor' if names.tensors == 1 else 'tensors'}"
    yield row((label, f"{count} of {format_count(names.parameters)} elements, {words}"), tone=tone)
    for name in shorten_list(fold_names(names.names), _LONGEST_LIST):
        yield row(("", name))


def _is_equal(one: LoadCost | None, other: LoadCost | None) -> bool:
    """Tell whether two ways of loading take the same."""
    if one is None or other is None:
        return False
    return (one.host_bytes, one.gpu_bytes) == (other.host_bytes, other.gpu_bytes)


def _count_files(count: int) -> str:
    return f"{format_count(count)} {'file' if count == 1 else 'files'}"


def _build_loading(facts: CheckpointFacts) -> Table:
    """Return the bytes that each way of loading takes, of main memory and of the GPU."""
    columns = (
        column("loading", Kind.WORDS),
        column("main memory", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
        column("GPU", Kind.NUMBER),
        column("", Kind.NUMBER, quiet=True),
    )
    rows = []
    costs = {cost.way: cost for cost in facts.loading or ()}
    names = dict(_WAYS)
    if _is_equal(costs.get("default"), costs.get("low_memory")):
        names["default"] = _EITHER_WAY
        del costs["low_memory"]
    for cost in costs.values():
        gpu = ("", "") if cost.gpu_bytes is None else (format_count(cost.gpu_bytes), format_bytes(cost.gpu_bytes))
        host = (format_count(cost.host_bytes), format_bytes(cost.host_bytes))
        rows.append(row((names[cost.way], *host, *gpu)))
    return Table(columns=columns, rows=tuple(rows), views=(((0, 1, 2, 3, 4),), ((0, 2, 4),), ((0, 2), (0, 4))))
