"""How much longer `--format html` takes than JSON, in processor time, and how large the page is.

    python benchmarks/write_page.py [ROUNDS]

The two commands alternate; the figure is the difference of the medians. Both run without network.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["INSPECTOR_CACHE"] = "off"  # each run works its answer out

COMMAND = [
    *(sys.executable, "-m", "inspector", "Qwen/QwQ-32B"),
    *("--lora", "r=16", "--targets", "all-linear", "--quiet", "--output"),
]


def measure_processor_seconds(command: list[str]) -> float:
    """Return what one run of a command takes of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the medians, their difference and the size."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        page, data = Path(folder) / "report.html", Path(folder) / "report.json"
        pairs = [
            tuple(measure_processor_seconds([*COMMAND, str(file)]) for file in (page, data)) for _ in range(rounds)
        ]
        html, json = (statistics.median(times) for times in zip(*pairs, strict=True))
        size = page.stat().st_size
    print(f"page {html:.2f} s, JSON {json:.2f} s, difference {html - json:.2f} s; the page has {size:,} bytes")


if __name__ == "__main__":
    main()
