"""Real trainers on torch's CUDA code peak, reserve and end where the trace says, to the byte: Trainer's and TRL's own.

The figures come from a stand-in for the CUDA runtime (tests/evidence/stand_in/README.md), not from a GPU. TRL need not
be installed: what was recorded is held against the trace. Every fourth row of TRL's runs everywhere, all of them with
INSPECTOR_TRUTH=all, as CI does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import transformers

from tests.evidence.truth.sample import IS_ALL
from tests.evidence.truth.trainer_page import PAGE, write_head, write_line
from tests.evidence.truth.trainer_rows import KNOWN, RECORDS, compare, name_row

WRITE = "run python -m tests.evidence.truth.trainer_page"


def list_rows() -> Iterator[Any]:
    """Yield the rows that this run predicts."""
    for record in RECORDS:
        sampled = record["rows"] if IS_ALL or "trl" not in record else record["rows"][::4]
        for row in sampled:
            yield pytest.param(row, record, id=name_row(row))


@pytest.mark.parametrize(("row", "record"), list(list_rows()))
@pytest.mark.skipif(
    any(transformers.__version__ != record["transformers"] for record in RECORDS),
    reason="recorded with another release of transformers",
)
@pytest.mark.filterwarnings("ignore")
def test_a_trainers_second_update_takes_what_is_traced(row: dict[str, Any], record: Mapping[str, Any]) -> None:
    figures = compare(row, record)
    expected = {key: KNOWN.get((name_row(row), key), (0, ""))[0] for key in figures}
    assert {key: predicted - measured for key, (predicted, measured) in figures.items()} == expected
    assert write_line(row, figures) in PAGE.read_text(encoding="utf-8"), WRITE


def test_the_page_on_trainers_has_every_row_in_order() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(write_head()), WRITE
    named = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")]
    rows = [name_row(row) for record in RECORDS for row in record["rows"]]
    assert [name for name in named if name not in ("row", "---")] == rows
    assert len(rows) == len(set(rows))
