"""Record steps of small models on torch's CUDA build: `python -m tests.evidence.stand_in.record_steps FILE NAME...`.

NAME is a row of `tests/trace/small_codes.py` whose code reads nothing that a kernel computed (set `FAKE_BOOL=1`: no row
is padded). The events are those of the second step, as tests/trace/test_code_truth.py holds them.
"""

from __future__ import annotations

import functools
import sys

from inspector.workloads.training.loops import run_plain_steps
from tests.evidence.stand_in.record_kernels import record_events, write_recording
from tests.trace.cpu_truth import adamw, trained
from tests.trace.small_codes import SMALL_CODES
from tests.trace.small_tasks import build_small


def record_step(name: str) -> list[int]:
    """Return the signed sizes of all allocations and frees of the second step of a small model."""
    model, batch = build_small("cuda", SMALL_CODES[name])
    optimizer = adamw(trained(model))
    step = functools.partial(run_plain_steps, model, batch, optimizer, lambda _phase, _step: None, steps=1)
    step()
    return record_events(step)


if __name__ == "__main__":
    write_recording(sys.argv[1], "steps", lambda: {name: record_step(name) for name in sys.argv[2:]})
