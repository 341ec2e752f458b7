"""CPU time and memory of a generation beside those of the training report, each a command of its own, in turn.

    python benchmarks/generation.py [MODEL] [ROUNDS]

Prints medians of the CPU seconds of `inspect MODEL`, of `inspect MODEL --generate` (1,024 + 256 tokens) and of the
latter with `--fit new-tokens` for a card, with the largest resident memory of each. Wall time says nothing on a machine
that is shared.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

os.environ["INSPECTOR_CACHE"] = "off"  # each run works its answer out

COMMANDS = {
    "training": (),
    "generation": ("--generate",),
    "search of new tokens": ("--generate", "--fit", "new-tokens", "--gpu", "4090", "--no-advice"),
}


def run_once(arguments: list[str]) -> tuple[float, float]:
    """Return the CPU seconds and the MiB of a run of the command."""
    child = subprocess.Popen(  # noqa: S603  # the command itself
        [sys.executable, "-m", "inspector", *arguments], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise SystemExit(f"inspect {' '.join(arguments)} failed")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    """Run the commands in turn and print what each took."""
    model = sys.argv[1] if len(sys.argv) > 1 else "meta-llama/Meta-Llama-3.1-8B"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, options in COMMANDS.items():
            found[name].append(run_once([model, "--offline", "--quiet", *options]))
    first = statistics.median(seconds for seconds, _ in found["training"])
    for name, runs in found.items():
        seconds = statistics.median(one for one, _ in runs)
        print(
            f"{name:22} {seconds:6.1f} s of CPU, {seconds / first:4.1f} times, {max(mib for _, mib in runs):6.0f} MiB"
        )


if __name__ == "__main__":
    main()
