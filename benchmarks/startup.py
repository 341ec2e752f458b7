"""Time the main job with --count-only against the floor that it stands on: importing torch, transformers and peft.

The two commands alternate, so that whatever else the machine does hits both alike; the figure is the ratio of the
medians. Run it with the Python that the inspector is installed in:

    python benchmarks/startup.py [ROUNDS]

Both run without network (HF_HUB_OFFLINE=1): a download depends on the Hub, not on this program.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

os.environ["INSPECTOR_CACHE"] = "off"  # each run works its answer out

FLOOR = [sys.executable, "-c", "import torch, transformers, peft"]
MAIN_JOB = [
    *(sys.executable, "-m", "inspector", "Qwen/QwQ-32B"),
    *("--lora", "r=16", "--targets", "all-linear", "--count-only"),
]


def seconds(command: list[str]) -> float:
    """Return the wall time of one run of a command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})  # noqa: S603
    return time.perf_counter() - started


def main() -> None:
    """Print the medians, the ratio of the medians and the spread of the ratio over the rounds."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    for command in (FLOOR, MAIN_JOB):
        seconds(command)  # fill the file cache and the bytecode cache
    pairs = [(seconds(FLOOR), seconds(MAIN_JOB)) for _ in range(rounds)]
    floor, job = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(job_time / floor_time for floor_time, job_time in pairs)
    print(f"floor     {floor:.2f} s   {' '.join(FLOOR[1:])}")
    print(f"main job  {job:.2f} s   {' '.join(MAIN_JOB[1:])}")
    print(f"ratio     {job / floor:.2f}     {ratios[0]:.2f} to {ratios[-1]:.2f} over {rounds} rounds")


if __name__ == "__main__":
    main()
