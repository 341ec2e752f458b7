"""docs/evidence/accuracy.md, made from the records here: `python -m tests.evidence.truth.accuracy` writes it.

A line for every row: peaks predicted, measured and their difference in bytes, and the cause where there is one. The
predictions are traced here and now; whole models take some seconds each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.evidence.truth.comparison import Compared, compared
from tests.evidence.truth.matrix import ROWS as MATRIX
from tests.evidence.truth.rank_page import HEADING
from tests.evidence.truth.records import FOLDER, Measured, load
from tests.evidence.truth.sample import draw_sample

__all__ = ["PAGE", "head", "line", "page"]

PAGE = FOLDER.parents[2] / "docs" / "evidence" / "accuracy.md"

_HEAD = """# How accurate the figures are

Made from the records in tests/evidence/truth by `python -m tests.evidence.truth.accuracy`. It has {rows} rows, each one
training step or generation that was measured: {gpu} on GPUs, {stand_in} on torch's CUDA code over a stand-in for the
CUDA runtime.
`inspect measure` has not run on a real GPU yet: what was measured on one was measured by others.

`.ci/run` predicts all {rows} anew for every change and holds page and records against it; the tests as README starts
them do so for a fixed sample of {sample}, with every row on a GPU in it (`INSPECTOR_TRUTH=all` runs all). All sizes are
bytes; the difference is predicted minus measured. *Figures* is how many were compared, of loading and of each phase of
two steps, in a generation of the prompt and of every token, and *off* how many of these differ: 0 means that every one
is equal to the byte. Nothing is rounded and no row is left out. Where a figure differs, the tests hold the difference
to the byte, so that any change shows.

`inspect measure MODEL` makes such a row on any CUDA GPU ([measure.md](../explain/measure.md)).
"""
_GPU = """
## Measured on GPUs
"""
_STAND_IN = """
## Not measured on a GPU: torch's CUDA code over a stand-in

These rows were measured by `inspect measure` with torch's own CUDA build over a CUDA runtime that computes nothing
(tests/evidence/truth/stand_in/README.md). They prove that the trace asks for what torch's host code asks for, in its
order, and that the allocator answers alike. They are no measurement of a GPU. **Rows on real GPUs are wanted**: those
of `tests/evidence/truth/matrix.py` have not been run on one yet.
{unrecorded}
"""
_COLUMNS = (
    "| row | model | peak allocated | measured | difference | peak reserved | measured | difference | figures | off "
    "| cause |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n"
)


def page() -> str:
    """Return the whole page."""
    rows = load()
    parts = [head(rows), _GPU, *_groups(row for row in rows if not row.is_stand_in)]
    parts += [_STAND_IN.format(unrecorded=_unrecorded(rows)), *_groups(row for row in rows if row.is_stand_in)]
    return "".join(parts)


def head(rows: tuple[Measured, ...]) -> str:
    """Return how the page begins: what it is, how many rows it has and where they are predicted."""
    on_gpus = sum(not row.is_stand_in for row in rows)
    counts = {"rows": len(rows), "gpu": on_gpus, "stand_in": len(rows) - on_gpus, "sample": len(draw_sample(rows))}
    return _HEAD.format(**counts)


def _unrecorded(rows: tuple[Measured, ...]) -> str:
    """Name the rows of the matrix that nobody has measured, on the stand-in either."""
    missing = [row.name for row in MATRIX if row.name not in {measured.name for measured in rows}]
    return f"Not measured at all yet: {', '.join(missing)}." if missing else "Every one of them is below."


def line(row: Measured) -> str:
    """Return the line of a row."""
    figures = compared(row)
    cells = [row.name, _model(row)]
    for quantity in ("peak allocated", "peak reserved"):
        found = [each for each in figures if each.quantity == quantity]
        cells += _cells(found[0]) if found else _cells(_largest(figures, quantity))
    off = [each for each in figures if each.difference]
    causes = dict.fromkeys(each.known.cause for each in off if each.known)
    return f"| {' | '.join([*cells, str(len(figures)), str(len(off)), '; '.join(causes)])} |\n"


def _groups(rows: Iterable[Measured]) -> Iterator[str]:
    """Yield a table for every file of records."""
    groups: dict[str, list[Measured]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    for members in groups.values():
        first = members[0].record
        gpu, versions = first["gpu"], first["versions"]
        capability = ".".join(map(str, gpu["compute_capability"]))
        yield f"\n### {gpu['name']}, compute capability {capability}, torch {versions['torch']}\n\n"
        yield f"Source: {first['source']}; transformers {versions['transformers']}, peft {versions['peft']}.\n\n"
        yield _COLUMNS
        yield from map(line, members)


def _largest(figures: Iterable[Compared], quantity: str) -> Compared | None:
    """Return the largest of the phases where a quantity of the whole run was not measured."""
    phases = [each for each in figures if each.quantity.endswith(quantity)]
    return max(phases, key=lambda each: each.measured, default=None)


def _cells(figure: Compared | None) -> list[str]:
    """Return predicted, measured and difference."""
    if figure is None:
        return ["–", "–", "–"]
    difference = f"{figure.difference:+,}" if figure.difference else "0"
    return [f"{figure.predicted:,}", f"{figure.measured:,}", difference]


def _model(row: Measured) -> str:
    """Return the model of a row, and how many of its layers."""
    layers = row.record.get("layers")
    name = str(row.record["model"]["id"])
    return f"{name}, {layers} layer{'s' if layers > 1 else ''}" if layers else name


def main(path: Path = PAGE) -> None:
    """Write the page; what stands there of ranks stays (`rank_page`)."""
    _, heading, ranks = path.read_text(encoding="utf-8").partition(HEADING)
    path.write_text(f"{page()}\n{heading}{ranks}" if heading else page(), encoding="utf-8")


if __name__ == "__main__":
    main()
