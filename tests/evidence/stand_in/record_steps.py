"""Record steps of small models on torch's CUDA build: `python -m tests.evidence.stand_in.record_steps FILE NAME...`.

NAME is a row of `tests/trace/small_codes.py` whose code reads nothing that a kernel computed (set `FAKE_BOOL=1`: no row
is padded). The events are those of the second step, as tests/trace/test_code_truth.py holds them.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch

from inspector.workloads.training.loops import run_plain_steps
from tests.evidence.stand_in.record_kernels import sizes, warm_up
from tests.trace.cpu_truth import adamw, trained
from tests.trace.small_codes import SMALL_CODES
from tests.trace.small_tasks import build_small


def record_step(name: str) -> list[int]:
    """Return the signed sizes of all allocations and frees of the second step of a small model."""
    memory: Any = torch.cuda.memory
    model, batch = build_small("cuda", SMALL_CODES[name])
    optimizer = adamw(trained(model))
    run_plain_steps(model, batch, optimizer, lambda _phase, _step: None, steps=1)
    gc.collect()
    memory._record_memory_history(max_entries=100_000, context=None, clear_history=True)
    run_plain_steps(model, batch, optimizer, lambda _phase, _step: None, steps=1)
    trace = memory._snapshot()["device_traces"][0]
    memory._record_memory_history(enabled=None)
    return list(sizes(trace))


def main() -> None:
    """Write the record: the GPU, torch, and the events of each step."""
    properties = torch.cuda.get_device_properties(0)
    warm_up()
    record = {
        "source": "torch's CUDA build on a stand-in runtime (tests/evidence/stand_in), not a GPU",
        "torch": torch.__version__,
        "compute_capability": [properties.major, properties.minor],
        "multiprocessors": properties.multi_processor_count,
        "threads_per_multiprocessor": properties.max_threads_per_multi_processor,
    }
    lines = [f'"{name}": {json.dumps(record_step(name))}' for name in sys.argv[2:]]
    head = json.dumps(record, indent=1)[:-2]
    Path(sys.argv[1]).write_text(f'{head},\n "steps": {{\n  ' + ",\n  ".join(lines) + "\n }\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
