"""Stand-ins for kernels of state spaces and linear attention allocate what the packages' own host code does.

recorded_scans.json holds the steps of the packages' Python, run on meta with kernels that do nothing; it is made by
`python -m tests.evidence.kernels.scans`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trace.small_scans import CASES, trace_step

RECORDED = json.loads((Path(__file__).parent / "recorded_scans.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "way"), CASES)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.one_of(5)
def test_a_step_with_stand_ins_allocates_and_frees_what_the_host_code_of_the_packages_does(name: str, way: str) -> None:
    assert trace_step(name, way) == RECORDED["steps"][f"{name}, {way}"]
