"""Which rows are predicted where: every run of the tests takes a fixed sample, CI takes all (`INSPECTOR_TRUTH=all`).

The sample has every row that was measured on a GPU, and of each file of the stand-in's records a fifth (of generations
a tenth), at least four, drawn with a fixed seed: whoever runs the tests predicts the same rows, and a path of the trace
that breaks for many rows shows there. The rest is predicted by `.ci/run` before a change lands.
"""

from __future__ import annotations

import os
import random

from tests.evidence.truth.records import Measured, load

__all__ = ["IS_ALL", "draw_sample", "rows_of_this_run"]

IS_ALL = os.environ.get("INSPECTOR_TRUTH") == "all"
_SEED = 12
_LEAST = 4
# One of so many is drawn of a file: generations are held by tests/workloads too.
_SHARE = 5
_SHARES = {"generation": 10}


def draw_sample(rows: tuple[Measured, ...]) -> tuple[Measured, ...]:
    """Return the sampled rows in their order."""
    chosen = {(row.group, row.name) for row in rows if not row.is_stand_in}
    for group in dict.fromkeys(row.group for row in rows if row.is_stand_in):
        names = sorted(row.name for row in rows if row.group == group)
        count = min(len(names), max(_LEAST, len(names) // _SHARES.get(group, _SHARE)))
        # Not for secrets: the same rows wherever it runs.
        chosen |= {(group, name) for name in random.Random(_SEED).sample(names, count)}
    return tuple(row for row in rows if (row.group, row.name) in chosen)


def rows_of_this_run() -> tuple[Measured, ...]:
    """Return the rows that the tests predict: all under INSPECTOR_TRUTH=all, else the sample."""
    return load() if IS_ALL else draw_sample(load())
