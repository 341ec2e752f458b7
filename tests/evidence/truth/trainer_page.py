"""docs/evidence/trainers.md, made from the rows of real trainers: `python -m tests.evidence.truth.trainer_page`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.evidence.truth.trainer_rows import KNOWN, RECORDS, compare, name_row

__all__ = ["PAGE", "write_head", "write_line"]

PAGE = Path(__file__).parents[3] / "docs" / "evidence" / "trainers.md"
_FIGURES = ("peak_allocated_bytes", "peak_reserved_bytes", "end_of_step_allocated_bytes")
_HEAD = """# Steps of trainers beside their prediction

Made by `python -m tests.evidence.truth.trainer_page` from trainer.json, trl.json and trl-chunked.json in
tests/evidence/truth/stand_in.

{rows} steps of real trainers: `transformers.Trainer`, with Liger or cut-cross-entropy where the row says so, and TRL's
SFT (with the fused head of 1.15 and newer, and the chunked loss of 1.7 to 1.14), DPO, KTO, ORPO, reward and GRPO
trainers. Their own code ran on torch's CUDA build over a stand-in for the CUDA runtime
([tests/evidence/stand_in](../../tests/evidence/stand_in/README.md)), not on a GPU: kernels compute nothing, and every
request to the allocator is real. Figures are of the second update, in bytes; the difference is predicted minus
measured. `.ci/run` predicts all of them for every change.

TRL attaches an adapter to a model that is on the card: PEFT makes it there in the dtype of the base, and casts it. Its
rows are predicted so; a command traces the adapter as it is attached in host memory, which reserves 2 MiB more or less
in some.
"""
_COLUMNS = (
    "| row | trainer | model | peak allocated | difference | peak reserved | difference | end of step | difference "
    "| cause |\n| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n"
)


def write_head() -> str:
    """Return how the page begins."""
    return _HEAD.format(rows=sum(len(record["rows"]) for record in RECORDS))


def write_line(row: Mapping[str, Any], figures: Mapping[str, tuple[int, int]]) -> str:
    """Return the line of a row, whose figures are predicted and measured."""
    layers = f"{row['model']}, {row['layers']} layers"
    cells = [name_row(row), row.get("trainer", "Trainer"), layers]
    for key in _FIGURES:
        predicted, measured = figures[key]
        cells += [f"{measured:,}", f"{predicted - measured:+,}" if predicted != measured else "0"]
    causes = [KNOWN[name_row(row), key][1] for key in _FIGURES if (name_row(row), key) in KNOWN]
    return f"| {' | '.join([*cells, '; '.join(causes)])} |\n"


def _write_tables() -> Iterator[str]:
    """Yield a table for each record."""
    for record in RECORDS:
        names = [name for name in ("torch", "transformers", "trl", "peft") if name in record]
        capability = ".".join(map(str, record["compute_capability"]))
        versions = ", ".join(f"{name} {record[name]}" for name in names)
        yield f"\nCompute capability {capability}, {versions}.\n\n{_COLUMNS}"
        for row in record["rows"]:
            yield write_line(row, compare(row, record))


def main(path: Path = PAGE) -> None:
    """Write the page."""
    path.write_text(write_head() + "".join(_write_tables()), encoding="utf-8")


if __name__ == "__main__":
    main()
