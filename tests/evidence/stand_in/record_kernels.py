"""Record what the cases take on torch's CUDA build: `python -m tests.evidence.stand_in.record_kernels FILE`.

A file whose name starts with `sampling` gets those of `sampling_cases`, one with `losses` those of `loss_cases`.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.evidence.stand_in.kernel_cases import CASES, Case
from tests.evidence.stand_in.loss_cases import LOSSES
from tests.evidence.stand_in.sampling_cases import SAMPLING


def warm_up() -> None:
    """Let the handles of both threads take their workspaces, forward and backward."""
    layer = torch.nn.Linear(8, 8, device="cuda")
    layer(torch.empty(8, 8, device="cuda", requires_grad=True)).sum().backward()


def sizes(trace: list[dict[str, Any]]) -> Iterator[int]:
    """Yield the bytes asked for, negative where they are freed."""
    held: dict[int, int] = {}
    for event in trace:
        if event["action"] == "alloc":
            held[event["addr"]] = event["size"]
            yield event["size"]
        elif event["action"] == "free_completed":
            yield -held.get(event["addr"], event["size"])


def recorded(case: Case) -> list[int]:
    """Run a case and return its events in order."""
    memory: Any = torch.cuda.memory
    running = case("cuda")
    next(running)
    gc.collect()
    memory._record_memory_history(max_entries=100_000, context=None, clear_history=True)
    next(running)
    trace = memory._snapshot()["device_traces"][0]
    memory._record_memory_history(enabled=None)
    return list(sizes(trace))


def main() -> None:
    """Write the record: the GPU, torch, and the events of each case."""
    properties = torch.cuda.get_device_properties(0)
    warm_up()
    record = {
        "source": "torch's CUDA build on a stand-in runtime (tests/evidence/stand_in), not a GPU",
        "torch": torch.__version__,
        "compute_capability": [properties.major, properties.minor],
        "multiprocessors": properties.multi_processor_count,
        "threads_per_multiprocessor": properties.max_threads_per_multi_processor,
    }
    by_name = {"sampling": SAMPLING, "losses": LOSSES}
    cases = by_name.get(Path(sys.argv[1]).name.split("-")[0], CASES)
    lines = [f'"{name}": {json.dumps(recorded(case))}' for name, case in cases.items()]
    head = json.dumps(record, indent=1)[:-2]
    Path(sys.argv[1]).write_text(f'{head},\n "cases": {{\n  ' + ",\n  ".join(lines) + "\n }\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
