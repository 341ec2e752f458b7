"""Work out how long `inspect plan --gpus` takes on two cores: CPU time of all its processes, halved.

Run it with the Python that the inspector is installed in, without network:

    python benchmarks/card_plan.py

Candidates are traced in a process for each core. CPU time over two is what two idle cores take at least; that the last
process works alone at the end comes on top. What a machine with other work on it takes says nothing.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

os.environ["INSPECTOR_CACHE"] = "off"  # each run works its answer out

PLANS = (
    ("Llama-3.1-8B on 1 to 64 cards", ("meta-llama/Llama-3.1-8B", "--gpus", "1-64"), 90),
    (
        "Llama-3.3-70B with LoRA on 2 to 16 cards",
        ("meta-llama/Llama-3.3-70B-Instruct", "--gpus", "2-16", "--lora", "r=16"),
        60,
    ),
)


def main() -> None:
    """Print the seconds of each plan, and how many it may take."""
    for name, arguments, most in PLANS:
        before = _count_seconds()
        command = [sys.executable, "-m", "inspector", "plan", *arguments, "--gpu", "h100", "--quiet", "--no-cache"]
        subprocess.run(command, check=False, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})  # noqa: S603  # our own command
        print(f"{name:40} {(_count_seconds() - before) / 2:6.1f} s of {most}", flush=True)


def _count_seconds() -> float:
    """Return the CPU time of all child processes so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
