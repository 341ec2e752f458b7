"""Record what the cases take on torch's CUDA build: `python -m tests.evidence.stand_in.record_kernels FILE`.

A file whose name starts with `sampling` gets those of `sampling_cases`, one with `losses` those of `loss_cases`, one
with `layouts` those of `layout_cases`.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from tests.evidence.stand_in.kernel_cases import CASES, Case
from tests.evidence.stand_in.layout_cases import LAYOUTS
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


def record_events(run: Callable[[], object]) -> list[int]:
    """Return the signed sizes of what `run` allocates and frees, in order."""
    memory: Any = torch.cuda.memory
    gc.collect()
    memory._record_memory_history(max_entries=100_000, context=None, clear_history=True)
    run()
    trace = memory._snapshot()["device_traces"][0]
    memory._record_memory_history(enabled=None)
    return list(sizes(trace))


def write_recording(file: str, kind: str, make: Callable[[], Mapping[str, list[int]]]) -> None:
    """Write the GPU, torch, and the events of each of a kind, which are made once the workspaces are there."""
    properties = torch.cuda.get_device_properties(0)
    warm_up()
    record = {
        "source": "torch's CUDA build on a stand-in runtime (tests/evidence/stand_in), not a GPU",
        "torch": torch.__version__,
        "compute_capability": [properties.major, properties.minor],
        "multiprocessors": properties.multi_processor_count,
        "threads_per_multiprocessor": properties.max_threads_per_multi_processor,
    }
    lines = [f'"{name}": {json.dumps(events)}' for name, events in make().items()]
    head = json.dumps(record, indent=1)[:-2]
    Path(file).write_text(f'{head},\n "{kind}": {{\n  ' + ",\n  ".join(lines) + "\n }\n}\n", encoding="utf-8")


def record_case(case: Case) -> list[int]:
    """Run a case and return its events in order."""
    running = case("cuda")
    next(running)
    return record_events(lambda: next(running))


def main() -> None:
    """Write the record of the cases that belong to the file's name."""
    by_name = {"sampling": SAMPLING, "losses": LOSSES, "layouts": LAYOUTS}
    cases = by_name.get(Path(sys.argv[1]).name.split("-")[0], CASES)
    write_recording(sys.argv[1], "cases", lambda: {name: record_case(case) for name, case in cases.items()})


if __name__ == "__main__":
    main()
